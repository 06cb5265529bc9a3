"""An experiment of a paper as cells: its own settings and our tiers, expanded over seeds and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from bench.attacks.base import Attack
from bench.attacks.gold import Gold
from bench.attacks.strong import Strong
from bench.cell import Cell, Tier
from bench.grids._rows import DefenseRow, Sample
from bench.grids._small import Small
from bench.report.members import Members, identify
from bench.threat import Norm, ThreatModel
from defenses.base import Purifier

Protocol = Literal["default", "paper", "strong", "gold", "both", "quick"]
TIERS: dict[str, tuple[Tier, ...]] = {
    **{"default": ("paper", "strong"), "both": ("paper", "gold")},
    **{"paper": ("paper",), "strong": ("strong",), "gold": ("gold",), "quick": ("quick",)},
}
DRAWS = {"paper": 10, "strong": 100, "gold": 100}  # judging draws an image
BATCH = 16  # pictures of a batch where no answer depends on it: what a kill can lose
FRACTIONS = {0.031373: 8 / 255, 0.0157: 4 / 255}  # radii as scripts round them -> as papers state them


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One classifier under one attack.

    Attributes:
        table: name of the table that shows it.
        dataset: registered name.
        classifier: registered name.
        score: registered name of the purifiers' network.
        attack: of every row that has none of its own.
        norm: "Linf", "L2" or "L1".
        epsilon: radius in image units, as the paper's scripts round it. Rows without a purifier and the other tiers
            take the fraction behind it.
        sample: pictures and seeds of the paper tier.
        rows: the defenses.
        gold_sample: pictures and seeds of the tiers strong and gold, where they differ.
        small: what stands in for its networks in the quick tier; None: it has no quick tier.
    """

    table: str
    dataset: str
    classifier: str
    score: str
    attack: Attack
    norm: Norm
    epsilon: float
    sample: Sample
    rows: tuple[DefenseRow, ...]
    gold_sample: Sample | None = None
    small: Small | None = None

    def cells(self, tier: Tier) -> Iterator[Cell]:
        """Row by row, with the settings of a tier. A deterministic defense takes one seed only."""
        for row in self.rows:
            if tier == "quick":
                yield from (
                    [self.small.cell(row, dataset=self.dataset, norm=self.norm, epsilon=self.fraction)]
                    if self.small
                    else []
                )
            elif tier == "paper":
                yield from self._seeded(row, self.sample, self._paper(row))
            else:
                yield from self._seeded(row, self.gold_sample or self.sample, self._ours(tier))

    def _paper(self, row: DefenseRow) -> dict[str, Any]:
        epsilon = self.epsilon if isinstance(row.defense, Purifier) else self.fraction
        threat = ThreatModel(norm=self.norm, epsilon=epsilon, gradient=row.gradient)
        return {"tier": "paper", "attack": row.attack or self.attack, "threat": threat, "published": row.published}

    def _ours(self, tier: Tier) -> dict[str, Any]:
        """Strong's and gold's members stay in a ball; an unrestricted attack takes their place, with the exact
        gradient."""
        strongest: Attack = Gold() if tier == "gold" else Strong()
        attack = strongest if self.attack.restricted else self.attack
        threat = ThreatModel(norm=self.norm, epsilon=self.fraction, gradient="exact")
        return {"tier": tier, "attack": attack, "threat": threat}

    @property
    def fraction(self) -> float:
        """The radius that the paper states: the fraction behind the rounded number of its scripts."""
        return FRACTIONS.get(self.epsilon, self.epsilon)

    def _seeded(self, row: DefenseRow, sample: Sample, settings: dict[str, Any]) -> Iterator[Cell]:
        first = Cell(
            dataset=self.dataset,
            classifier=self.classifier,
            score=self.score if row.defense.needs_score else None,
            defense=row.defense,
            num_images=sample.num_images,
            batch_size=sample.batch_size,
            draws=DRAWS[settings["tier"]],
            **settings,
        )
        if not first.batch_coupled:  # no part of the key then
            first = replace(first, batch_size=min(BATCH, sample.batch_size))
        for seed in sample.seeds if row.defense.stochastic else sample.seeds[:1]:
            for data_seed in sample.data_seeds:
                yield replace(first, seed=seed, data_seed=data_seed)


def cells_of(experiments: Iterable[Experiment], protocol: str) -> list[Cell]:
    """The cells of all experiments, the paper tier before ours, each once: of equal ones that with a published number.

    Args:
        experiments: in the order of their tables.
        protocol: "default" (paper and strong), "paper", "strong", "gold", "both" (paper and gold) or "quick".

    Raises:
        ValueError: another protocol.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"Expected protocol among {', '.join(get_args(Protocol))}, got {protocol!r}.")
    found: dict[str, Cell] = {}
    for tier, experiment in product(TIERS[protocol], experiments):
        for cell in experiment.cells(tier):
            if cell.key not in found or (cell.published and not found[cell.key].published):
                found[cell.key] = cell
    return list(found.values())


def members_of(experiments: Iterable[Experiment], table: str) -> Members:
    """The cells of the experiments that one table shows.

    Args:
        experiments: of the whole grid.
        table: name of the table.
    """

    def published() -> dict[str, str | None]:
        chosen = [experiment for experiment in experiments if experiment.table == table]
        found: dict[str, str | None] = {}
        for cell in (cell for protocol in ("both", "strong", "quick") for cell in cells_of(chosen, protocol)):
            place = identify(cell.row())
            found[place] = found.get(place) or cell.published
        return found

    return Members(published)
