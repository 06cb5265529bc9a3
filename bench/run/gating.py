"""Validity gates of a prepared cell: which images, what is known of the cell, which gates."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS
from bench.cell import Cell
from bench.datasets import load_dataset, shuffled
from bench.gates import ALWAYS, GATES, SUBSET, Evidence, choose_images, run_gates
from bench.gates.costs import Asked, Cost, count_answers
from bench.records import ImageRecord
from bench.run.meter import Meter
from bench.run.prepare import Prepared
from defenses.base import Defended, Gradient
from defenses.defended import ALWAYS as UNIVERSAL
from defenses.noise import role_seed

ALWAYS_SUBSET = 16


def check_gates(
    prepared: Prepared,
    records: Sequence[ImageRecord],
    *,
    every: bool,
    data_dir: Path | None = None,
    kept: Mapping[int, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Check the validity gates of a cell that is measured, on a random sample of its images.

    A whole batch stays together where one image's answer depends on it.

    Args:
        prepared: the cell.
        records: of all its images.
        every: all gates, or the cheap ones alone.
        data_dir: folder of data sets, for pictures that are not the cell's.
        kept: image id -> its adversarial image (channels, height, width); without all of them the attack runs again.

    Returns:
        Rows as they are stored.
    """
    cell, total = prepared.cell, len(prepared.indices)
    batch = cell.batch_size if cell.defense.batch_coupled else None
    places = choose_images(total, _subset(every), cell.seed, batch=batch)
    images, labels, ids = prepared.batch(torch.tensor(places))

    def fresh(kind: Gradient) -> Defended:
        defense = copy.deepcopy(cell.defense)
        return prepared.seen(defense.defend(prepared.classifier, prepared.score, gradient=kind).sealed().eval())

    evidence = Evidence(
        records=records,
        fresh=fresh,
        classifier=prepared.classifier,
        unseen=lambda count: _other_pictures(prepared, count, data_dir),
        stochastic=cell.stochastic,
        rows=judged_rows(cell),
        adversarial=_kept_images(kept or {}, ids),
        tried=cell.attack.tried(),
        attacked=None if cell.attack_precision == "float32" else prepared.attacked,
        unknown=None if cell.threat.noise == "fresh" else prepared.drawn,
    )
    with Meter(*prepared.counted(prepared.model())) as meter:
        found = run_gates(
            prepared.model, images, labels, ids, cell.threat, cell.attack.representative(cell.threat), seed=cell.seed,
            classes=prepared.data.classes, evidence=evidence, gates=GATES if every else ALWAYS, count=meter.take,
        )  # fmt: skip
    return [gate.row() for gate in found]


def _kept_images(kept: Mapping[int, Tensor], ids: Tensor) -> Tensor | None:
    found = [kept.get(image) for image in ids.tolist()]
    known = [image for image in found if image is not None]
    return torch.stack(known).to(ids.device) if len(known) == len(found) else None


def count_gate_answers(cell: Cell, *, every: bool) -> Cost:
    """Answers that the validity gates of a cell ask in all, at most: without a gradient, and with one."""
    defense = cell.defense
    batch = cell.batch_size if defense.batch_coupled else None
    images = len(choose_images(cell.num_images, _subset(every), cell.seed, batch=batch))
    asked = Asked(
        attack=cell.attack.representative(cell.threat),
        threat=cell.threat,
        images=images,
        cheap=not every,
        stochastic=cell.stochastic,
        kinds={*UNIVERSAL, *defense.gradients},
        tried=cell.attack.tried(),
        bare=not defense.network_evaluations,
        rows=judged_rows(cell),
        known=cell.threat.noise != "fresh",
        precise=cell.attack_precision == "float32",
    )
    plain, graph = count_answers(asked, [gate.__name__ for gate in (GATES if every else ALWAYS)])
    return images * plain, images * graph


def has_every_gate(cell: Cell, gates: Collection[str]) -> bool:
    """Whether a cell gets all validity gates: above the quick tier, or as its attack is named among `gates`."""
    return cell.tier != "quick" or cell.attack.name in gates


def find_gated(cells: Sequence[Cell]) -> set[str]:
    """Find the keys of the cells that are the last among those that differ in seed and data seed alone.

    Their gates stand for the group's: a gate asks about the defense and the attack, at the cost of a dozen attacks. By
    the last one a defense with a memory has met the pictures. Cells whose images come from elsewhere have no gates.
    """
    return set({replace(cell, seed=0, data_seed=0).key: cell.key for cell in cells if not cell.attack.given}.values())


def judged_rows(cell: Cell) -> int:
    """Images of one pass of the cell's judge."""
    return min(JUDGE_ROWS, cell.batch_size * cell.judging_draws)


def _subset(every: bool) -> int:
    return SUBSET if every else ALWAYS_SUBSET


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
    order = shuffled(
        len(rest), role_seed(cell.seed, cell.key) % 2**31
    )  # others for every cell: nothing met them before
    picked = [place for place in order if place not in taken][:count]
    if not picked:
        return None
    try:
        return data.images(picked), torch.as_tensor(data.labels)[torch.tensor(picked)]
    except LookupError:  # of pictures given in Python the sample alone is kept
        return None
