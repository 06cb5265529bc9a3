"""The cost of cells before they run: answers times what an answer costs, group by group."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench.cell import Cell
from bench.epsilon import epsilon_text
from bench.report.labels import set_labels
from bench.run.answers import count_attack
from bench.run.gating import count_gate_answers, has_every_gate
from bench.run.progress import always_shown, count_judged
from bench.run.rates import Rates
from bench.run.runner import is_done
from bench.store import Store


@dataclass
class Group:
    """Cells that differ in seed and data seed alone.

    Attributes:
        cells: in the order of the grid.
        done: how many of them are done.
        label: the group in words.
    """

    cells: list[Cell]
    done: int = 0
    label: str = ""

    @property
    def left(self) -> int:
        """Cells that would run."""
        return len(self.cells) - self.done

    @property
    def line(self) -> str:
        """The group in words, before what is to be said of it."""
        runs = f", {len(self.cells)} runs" if len(self.cells) > 1 else ""
        finished = f", {self.done} done" if self.done else ""
        return f"{self.cells[0].key[:6]}  {self.label}{runs}{finished}"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What cells cost.

    Attributes:
        cells: how many would run.
        seconds: of attack, judge and gates.
        units: network evaluations of attack and judge.
        checks: network evaluations of the validity gates, at most.
    """

    cells: int = 0
    seconds: float = 0.0
    units: float = 0.0
    checks: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            cells=self.cells + other.cells,
            seconds=self.seconds + other.seconds,
            units=self.units + other.units,
            checks=self.checks + other.checks,
        )


@dataclass(frozen=True, kw_only=True)
class Priced:
    """A group and its cost.

    Attributes:
        group: the cells.
        cost: nothing where it is not known.
        missing: name -> where to get it, of what is needed to know it.
        error: why it would fail; "" where it would not.
    """

    group: Group
    cost: Cost
    missing: dict[str, str] = field(default_factory=dict)
    error: str = ""


class Done:
    """What a database holds already; asked once for each cell."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: dict[str, bool] = {}

    def holds(self, cell: Cell) -> bool:
        """Whether a run would skip it."""
        if self._store is None:
            return False
        if cell.key not in self._known:
            self._known[cell.key] = is_done(self._store, cell)
        return self._known[cell.key]


def price_groups(cells: Sequence[Cell], done: Done, rates: Rates, gates: Collection[str] = ()) -> Iterator[Priced]:
    """Price each group of cells that differ in seeds alone, as soon as its defense is timed.

    Args:
        cells: of the run.
        done: what costs nothing.
        rates: what an answer costs.
        gates: names of attacks whose quick cells get all validity gates.
    """
    for group in group_cells(cells, done):
        cell = group.cells[0]
        missing = rates.find_missing(cell) if group.left else {}
        if not group.left or missing:
            yield Priced(group=group, cost=Cost(), missing=missing)
            continue
        try:
            cost = price_cells(cell, group.left, rates, gates)
        except Exception as error:  # as in a run, where a cell that fails is a row
            yield Priced(group=group, cost=Cost(), error=str(error))
            continue
        yield Priced(group=group, cost=cost)


def price_cells(cell: Cell, count: int, rates: Rates, gates: Collection[str] = ()) -> Cost:
    """Price so many cells like this one, and the gates that one of them gets."""
    asked, own = count_attack(cell), cell.threat.gradient
    spent = rates.rate(cell, own, cell.attack_precision).price(asked.plain + count_judged(cell), 0)
    for kind, graphs in asked.graphs.items():
        more = rates.rate(cell, kind, cell.attack_precision).price(0, graphs)
        spent = spent[0] + more[0], spent[1] + more[1]
    checked = (0.0, 0.0)
    if not cell.attack.given:
        answers = count_gate_answers(cell, every=has_every_gate(cell, gates))
        checked = rates.rate(cell, own, None).price(*answers)
    images = count * cell.num_images
    return Cost(cells=count, seconds=images * spent[0] + checked[0], units=images * spent[1], checks=checked[1])


def group_cells(cells: Sequence[Cell], done: Done) -> list[Group]:
    """The groups of cells that differ in seed and data seed alone, labelled so that no two read alike."""
    found: dict[str, Group] = {}
    for cell in cells:
        group = found.setdefault(replace(cell, seed=0, data_seed=0).key, Group([]))
        group.cells.append(cell)
        group.done += done.holds(cell)
    firsts = [group.cells[0] for group in found.values()]
    rows = [cell.row() | always_shown(cell) for cell in firsts]
    set_labels(rows)
    for group, row in zip(found.values(), rows, strict=True):
        threat = f"{row['norm']} {epsilon_text(row['epsilon'])} {row['gradient']}"
        group.label = f"{row['dataset']} {row['classifier']} {row['defense_label']} {row['attack_label']} ({threat})"
    return list(found.values())
