"""Which part of a grid fits a budget, and what is given up for it.

What makes a number less certain goes before what makes it flattering: seeds first, then pictures, and a weaker attack
only where one seed of a few pictures does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from bench.cell import Cell
from bench.run.bill import Cost, Done, Group, group_cells, price_cells
from bench.run.part import Part
from bench.run.rates import Rates

FEWEST = 16  # pictures of a cell, at least
WEAKER: dict[str, tuple[str, ...]] = {
    "both": ("default", "strong", "quick"),
    "gold": ("strong", "quick"),
    "default": ("strong", "quick"),
    "strong": ("quick",),
    "paper": ("quick",),
}
"""Protocol -> those that are tried in its place, each cheaper than the one before."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What fits a budget.

    Attributes:
        protocol: of the grid; None is its default.
        part: of that protocol's cells.
        cells: to run.
        cost: of them.
        given_up: sentences.
    """

    protocol: str | None
    part: Part
    cells: list[Cell]
    cost: Cost
    given_up: list[str]


def fit(
    make: Callable[[str | None], list[Cell]],
    protocol: str | None,
    seconds: float,
    rates: Rates,
    done: Done,
    *,
    gates: Collection[str] = (),
    weaker: bool = True,
) -> Plan:
    """Choose protocol, seeds and pictures so that the forecast fits.

    Args:
        make: protocol -> its cells; LookupError where there are none.
        protocol: that was asked for; None is the grid's default.
        seconds: the budget.
        rates: what an answer costs.
        done: what costs nothing.
        gates: names of attacks whose quick cells get all validity gates.
        weaker: whether the grid has weaker protocols.

    Raises:
        ValueError: nothing fits; the message says what the least would cost.
    """
    least = math.inf
    for other in (protocol, *(WEAKER.get(protocol or "default", ()) if weaker else ())):
        try:
            cells = make(other)
        except LookupError:  # the filters leave nothing of it
            continue
        groups = [group for group in group_cells(cells, done) if _can_be_priced(group, rates, gates)]
        for part in ladder(groups):
            cost = _price(groups, part, rates, done, gates)
            least = min(least, cost.seconds)
            if cost.seconds <= seconds:
                told = [*_tell_protocol(protocol, other), *_tell_part(groups, part)]
                return Plan(protocol=other, part=part, cells=part.of(cells), cost=cost, given_up=told)
    raise ValueError(
        f"Expected a budget of at least {least / 3600:.3g} h, the least that this grid takes on {rates.place}, found "
        f"{seconds / 3600:.3g} h. Choose fewer cells with --filter."
    )


def _can_be_priced(group: Group, rates: Rates, gates: Collection[str]) -> bool:
    """Whether a group costs something that is known; one that would fail costs nothing."""
    try:
        if rates.find_missing(group.cells[0]):
            return False
        price_cells(group.cells[0], 1, rates, gates)
    except Exception:  # as in a run, where a cell that fails is a row
        return False
    return True


def ladder(groups: Sequence[Group]) -> Iterator[Part]:
    """Parts of the groups, each cheaper than the one before: fewer seeds, fewer data seeds, fewer pictures."""
    cells = [group.cells for group in groups]
    seeds = max((len({cell.seed for cell in some}) for some in cells), default=1)
    data_seeds = max((len({cell.data_seed for cell in some}) for some in cells), default=1)
    images = max((cell.num_images for some in cells for cell in some), default=1)
    yield Part()
    for count in range(seeds - 1, 0, -1):
        yield Part(seeds=count)
    while data_seeds > 1:
        data_seeds //= 2
        yield Part(seeds=1, data_seeds=data_seeds)
    while images // 2 >= FEWEST:
        images //= 2
        yield Part(seeds=1, data_seeds=1, images=images)


def _price(groups: Sequence[Group], part: Part, rates: Rates, done: Done, gates: Collection[str]) -> Cost:
    total = Cost()
    for group in groups:
        some = part.of(group.cells)
        left = sum(not done.holds(cell) for cell in some)
        if left:
            total += price_cells(some[0], left, rates, gates)
    return total


def _tell_protocol(asked: str | None, taken: str | None) -> Iterator[str]:
    if taken == asked:
        return
    words = {"strong": "the attack is strong's alone", "default": "strong stands for gold, which is longer"}
    quick = "small networks and short attacks: no number of it is a claim of robustness"
    yield f"protocol {asked or 'default'} -> {taken}: {words.get(taken or '', quick)}."


def _tell_part(groups: Sequence[Group], part: Part) -> Iterator[str]:
    cells = [cell for group in groups for cell in group.cells]
    if part.seeds is not None:
        most = max(len({cell.seed for cell in group.cells}) for group in groups)
        yield f"seeds: {part.seeds} of at most {most}; the spread over seeds is known less well, or not at all."
    if part.data_seeds is not None or part.images is not None:
        before, after = (min(_pictures(some) for some in each) for each in _split(groups, part))
        widths = [f"{98 / math.sqrt(count):.0f}" for count in (before, after)]
        yield (
            f"pictures: {len({c.data_seed for c in part.of(cells)})} data seeds of at most "
            f"{max(cell.num_images for cell in part.of(cells))} pictures. The smallest row has {after} in place of "
            f"{before}: an interval of about {widths[1]} points to each side in place of {widths[0]}."
        )


def _split(groups: Sequence[Group], part: Part) -> tuple[list[list[Cell]], list[list[Cell]]]:
    return [group.cells for group in groups], [part.of(group.cells) for group in groups]


def _pictures(cells: Sequence[Cell]) -> int:
    """Pictures behind a row of a table, seeds apart."""
    return sum({cell.data_seed: cell.num_images for cell in cells}.values())
