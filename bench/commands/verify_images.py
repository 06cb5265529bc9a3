"""`bench verify --images`: judge what somebody else's attack made, and store it as the attack `external`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from bench.attacks._external import hand_over
from bench.cell import Cell
from bench.commands.audit import make_defense
from bench.commands.report import tables
from bench.commands.run import open_store
from bench.epsilon import parse_epsilon
from bench.evidence import Vault
from bench.evidence.handed_in import check_ball, read_images
from bench.run.display import make_watcher
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.run.work import Outcome
from bench.threat import ThreatModel
from defenses.base import Defense
from defenses.user_file import load_file

GRID = "external"  # what the database calls the grid of these cells


@dataclass
class GivenLoader(Loader):
    """A loader that measures on the images that were handed in, and no others.

    Attributes:
        given: (n,) places in the test split.
    """

    given: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def indices(self, cell: Cell) -> Tensor:
        """The places that were handed in."""
        return self.given


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What whoever made the images says of them.

    Attributes:
        images: the .npz file.
        by: who made them.
        dataset: registered name.
        classifier: registered name.
        defense: registered name, or a Python file that defines one defense.
        score: registered name of the score network; None where the defense needs none.
        fields: FIELD=VALUE texts, fields of the defense.
        norm: "Linf", "L2" or "L1".
        epsilon: radius as people write it, such as 8/255.
        gradient: what the attacker differentiated; "none" where nobody says.
    """

    images: Path
    by: str
    dataset: str
    classifier: str
    defense: str
    score: str | None
    fields: tuple[str, ...]
    norm: Any
    epsilon: str
    gradient: Any


def verify_images(
    db: str, claimed: Claimed, loader: Loader, vault: Vault | None, *, draws: int, seed: int, batch_size: int
) -> Outcome:
    """Check and judge images, store them, print the table.

    Args:
        db: path or URL of the database.
        claimed: the images and what is said of them.
        loader: where data sets and networks come from.
        vault: where the images are kept; None keeps none.
        draws: judging draws an image.
        seed: of the draws.
        batch_size: images a batch.

    Raises:
        ValueError: the images are not what they are said to be; nothing is stored then.
    """
    epsilon = parse_epsilon(claimed.epsilon)
    if epsilon is None:
        raise ValueError(f"Expected --epsilon as a number or a fraction such as 8/255, got {claimed.epsilon!r}.")
    threat = ThreatModel(norm=claimed.norm, epsilon=epsilon, gradient=claimed.gradient)
    defense = _make_defense(claimed)
    if defense.needs_score and claimed.score is None:
        raise ValueError(f"{claimed.defense} needs a score network, got none. Give --score; `bench list scores`.")
    cell = Cell(
        dataset=claimed.dataset, classifier=claimed.classifier, defense=defense,
        score=claimed.score if defense.needs_score else None, attack=hand_over(torch.zeros(0), torch.zeros(0), ""),
        threat=threat, num_images=1, draws=draws, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    data = loader.pictures(cell)
    given = read_images(claimed.images, data)
    check_ball(given, data, threat)
    attack = hand_over(given.images, given.index, claimed.by)
    cell = dataclasses.replace(cell, attack=attack, num_images=len(given.index))
    ours = GivenLoader(loader.device, loader.data_dir, loader.download, given=given.index)
    with open_store(db) as store:
        with make_watcher() as shown:
            outcome = run_cells([cell], store, ours, shown, grid=GRID, vault=vault)
        for failed in outcome.failed:
            run = store.runs_of(failed.key)[0]
            raise ValueError(f"{run['error_message']} {run['remedy'] or ''}".strip())
        click.echo(tables(store, None, [cell], "text"))
        _tell(store, cell)
    return outcome


def _make_defense(claimed: Claimed) -> Defense:
    if claimed.defense.endswith(".py"):
        load_file(Path(claimed.defense))
        return make_defense(os.path.splitext(os.path.basename(claimed.defense))[0], claimed.fields)
    return make_defense(claimed.defense, claimed.fields)


def _tell(store: Any, cell: Cell) -> None:
    run = store.latest_done(cell.key)
    click.echo(
        f"Stored in {store.where} as cell {cell.key}: attack `external`, by {cell.attack.params()['by']}. As 8-bit "
        f"pictures they leave {run['rounded_accuracy']:.1f} %."
    )
