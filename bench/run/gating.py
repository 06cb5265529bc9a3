"""Validity gates of a prepared cell: which images, what is known of the cell, which gates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS
from bench.datasets import load_dataset, shuffled
from bench.gates import ALWAYS, GATES, SUBSET, Evidence, choose_images, run_gates
from bench.records import ImageRecord
from bench.run.prepare import Prepared
from defenses.base import Defended, Gradient

ALWAYS_SUBSET = 16


def check_gates(
    prepared: Prepared, records: Sequence[ImageRecord], *, every: bool, data_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Check the validity gates of a cell that is measured, on a random sample of its images.

    A whole batch stays together where one image's answer depends on it.

    Args:
        prepared: the cell.
        records: of all its images.
        every: all gates, or the cheap ones alone.
        data_dir: folder of data sets, for pictures that are not the cell's.

    Returns:
        Rows as they are stored.
    """
    cell, total = prepared.cell, len(prepared.indices)
    batch = cell.batch_size if cell.defense.batch_coupled else None
    places = choose_images(total, SUBSET if every else ALWAYS_SUBSET, cell.seed, batch=batch)
    images, labels, ids = prepared.batch(torch.tensor(places))

    def fresh(kind: Gradient) -> Defended:
        defense = copy.deepcopy(cell.defense)
        return defense.defend(prepared.classifier, prepared.score, gradient=kind).eval()

    evidence = Evidence(
        records=records,
        fresh=fresh,
        classifier=prepared.classifier,
        unseen=lambda count: _other_pictures(prepared, count, data_dir),
        stochastic=cell.defense.stochastic,
        rows=min(JUDGE_ROWS, cell.batch_size * cell.judging_draws),
    )
    found = run_gates(
        prepared.model, images, labels, ids, cell.threat, cell.attack.representative(cell.threat), seed=cell.seed,
        classes=prepared.data.classes, evidence=evidence, gates=GATES if every else ALWAYS,
    )  # fmt: skip
    return [gate.row() for gate in found]


def _other_pictures(prepared: Prepared, count: int, data_dir: Path | None) -> tuple[Tensor, Tensor] | None:
    """Pictures of the train split with their labels; of the test split's rest where there is no train split here."""
    cell, data = prepared.cell, prepared.data
    rest = range(len(data))
    try:
        data = load_dataset(cell.dataset, data_dir=data_dir, split="train")
        rest = range(len(data))
        taken: set[int] = set()
    except (LookupError, ValueError):
        taken = set(prepared.indices.tolist())
    if data.fingerprint() == prepared.data.fingerprint():  # a data set of one split
        taken = set(prepared.indices.tolist())
    order = shuffled(len(rest), cell.seed)
    picked = [place for place in order if place not in taken][:count]
    if not picked:
        return None
    return data.images(picked), torch.as_tensor(data.labels)[torch.tensor(picked)]
