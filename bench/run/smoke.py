"""`bench run --smoke`: a grid's code paths on toy networks with random weights, in minutes.

The pictures are random, but for a data set of one's own: there they are its first ones, as its own code reads them.

Every data set and network of a toy cell has a name that begins with `bench.store.smoke_mark.SMOKE`; such rows are
never results. The architectures and the difference between picture and diffusion size stay, the widths shrink. Toy
classifiers lean towards the right answer, so that an attack has something to break.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.attacks._short import cut_short
from bench.cell import Cell, Tier
from bench.datasets import DATASETS
from bench.run.prepare import names_of
from bench.run.toys import toy_classifier, toy_dataset, toy_score
from bench.store.smoke_mark import SMOKE
from defenses.models.classifiers import CLASSIFIERS
from defenses.models.scores import SCORES

DEFENSE = {"steps": 2, "rounds": 2, "runs": 2, "guide_from": 1}
ATTACK = {
    **dict.fromkeys(("steps", "apgd_steps", "check_draws", "samples", "first"), 1),
    **dict.fromkeys(("eot", "restarts", "defense_replicates", "queries", "longest"), 2),
}
"""The largest values that fields of toy defenses and attacks keep."""


def toy_cells(cells: Sequence[Cell], limit: int | None = None) -> list[Cell]:
    """A small cell for every kind of cell, each once: seeds and numbers of pictures do not make another kind.

    Only the first of each defense keeps its tier, and with it the gates, which cost more than all the rest.

    Args:
        cells: of a grid.
        limit: at most so many; None is all.
    """
    found: dict[str, Cell] = {}
    firsts: set[str] = set()
    for cell in cells:
        key = toy_cell(cell, "quick").key
        if key not in found:
            tier = "quick" if cell.defense.name in firsts else cell.tier
            found[key] = toy_cell(cell, tier)
            firsts.add(cell.defense.name)
    return list(found.values())[:limit]


def toy_cell(cell: Cell, tier: Tier) -> Cell:
    """The same path through the code with two pictures, two steps, two draws.

    Args:
        cell: of a grid.
        tier: of the small cell; all but "quick" bring the gates.
    """
    own = cell.defense.networks()
    defense = cell.defense.with_networks({name: SMOKE + name for name in (*own.classifiers, *own.scores)})
    return dataclasses.replace(
        cell,
        dataset=SMOKE + cell.dataset,
        classifier=SMOKE + cell.classifier,
        score=SMOKE + cell.score if cell.score else None,
        defense=_small(defense, DEFENSE),
        attack=_small(cell.attack, ATTACK),
        num_images=2,
        data_seed=0,
        seed=0,
        batch_size=2,
        draws=2,
        tier=tier,
        published=None,
    )


def _small(part: Any, most: Mapping[str, int]) -> Any:
    """A defense or an attack with its costly fields cut down; `steps` that follow from t are set."""
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    cut = {name: min(value, most[name]) for name, value in fields.items() if name in most and isinstance(value, int)}
    if "steps" in fields and fields["steps"] is None:
        cut["steps"] = most["steps"]
    return dataclasses.replace(part, **cut)


@contextmanager
def toy_world(cells: Sequence[Cell], data_dir: Path | None = None) -> Iterator[None]:
    """While it lasts, the data sets and networks of the toy cells are known, and AutoAttack and the gates' search take
    two steps."""
    datasets = [toy_dataset(name, data_dir) for name in dict.fromkeys(cell.dataset for cell in cells)]
    classifiers = [toy_classifier(name, *of) for name, of in _uses(cells, 0).items()]
    scores = [toy_score(name, *of) for name, of in _uses(cells, 1).items()]
    with (
        DATASETS.temporarily(datasets),
        CLASSIFIERS.temporarily(classifiers),
        SCORES.temporarily(scores),
        cut_short(2),
    ):
        yield


def _uses(cells: Sequence[Cell], kind: int) -> dict[str, list[str]]:
    """Name of each classifier (kind 0) or score network (1) behind the cells -> the data sets that it is used on."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for name in names_of(cell)[kind]:
            used = found.setdefault(name, [])
            used += [cell.dataset] * (cell.dataset not in used)
    return found
