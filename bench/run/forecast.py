"""What a run would do and cost, in lines: of each group of cells, of each table, in all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bench.cell import Cell
from bench.epsilon import epsilon_text
from bench.report import Table
from bench.run.bill import Cost, Done, Priced, price_cells, price_groups
from bench.run.modelled import OnCard
from bench.run.progress import count_judged, write_time
from bench.run.rates import Rates
from bench.store import Store, StoreError
from bench.store.database import parse_url, sqlite_path
from defenses.precision import PRECISIONS


def forecast(
    cells: Sequence[Cell], db: str, rates: Rates, gates: Collection[str] = (), tables: Sequence[Table] = ()
) -> Iterator[str]:
    """Say what a run would do and cost, line by line; nothing is downloaded.

    Args:
        cells: the cells of the run.
        db: path or URL of the result database; what is done there costs nothing.
        rates: what an answer costs.
        gates: names of attacks whose quick cells get all validity gates.
        tables: of the grid; without them, one a data set and threat.

    Returns:
        A line for each group of cells that differ in seeds alone, with network evaluations and time or what is missing,
        as soon as its defense is timed; then the missing files, a line a table, and the sum.
    """
    absent: dict[str, str] = {}
    known: list[Priced] = []
    for priced in price_groups(cells, Done(open_store(db)), rates, gates):
        known.append(priced)
        absent |= priced.missing
        yield _tell(priced)
    yield from (f"Missing {name}: {message}" for name, message in absent.items())
    yield from _tell_tables(known, tables)
    cost = sum((priced.cost for priced in known), Cost())
    yield (
        f"In all {cost.units:.3g} network evaluations, and {cost.checks:.3g} at most for validity gates, about "
        f"{write_time(cost.seconds)} on {rates.place} ({rates.remark})."
    )
    if isinstance(rates, OnCard):
        yield from _tell_precisions(known, rates, gates)
    if absent:
        at_least = sum(priced.group.left * count_forward(priced.group.cells[0]) for priced in known if priced.missing)
        yield (
            f"The cells whose files are missing need at least {at_least:.3g} network evaluations more. `bench fetch` "
            "downloads the files that have a public address."
        )


def _tell(priced: Priced) -> str:
    group, cost = priced.group, priced.cost
    if not group.left:
        return f"{group.line}: done" if len(group.cells) == 1 else group.line
    if priced.missing:
        at_least = group.left * count_forward(group.cells[0])
        return f"{group.line}: at least {at_least:.3g} network evaluations; missing {', '.join(priced.missing)}"
    if priced.error:
        return f"{group.line}: would fail: {priced.error}"
    share = f", {cost.checks:.3g} for its gates" if cost.checks else ""
    return f"{group.line}: {cost.units:.3g} network evaluations{share}, {write_time(cost.seconds)}"


def _tell_tables(known: Sequence[Priced], tables: Sequence[Table]) -> Iterator[str]:
    """A line a table; a cell of several tables counts in the first."""
    costs: dict[str, Cost] = {}
    for priced in known:
        name = _find_table(priced.group.cells[0], tables)
        costs[name] = costs.get(name, Cost()) + priced.cost
    if len(costs) > 1:
        for name, cost in costs.items():
            spent = f"{cost.units + cost.checks:.3g} network evaluations, {write_time(cost.seconds)}"
            yield f"Table {name}: {cost.cells} cells, {spent}, gates included"


def _find_table(cell: Cell, tables: Sequence[Table]) -> str:
    row = cell.row()
    for table in tables:
        if table.shows(row):
            return table.name
    threat = f"{cell.dataset} {cell.threat.norm} {epsilon_text(cell.threat.epsilon)}"
    return f"(none) {threat}" if tables else threat


def _tell_precisions(known: Sequence[Priced], rates: OnCard, gates: Collection[str]) -> Iterator[str]:
    """The sum with the attacks in each precision."""
    some = [priced.group for priced in known if priced.cost.cells]
    found = [
        write_time(sum(price_cells(g.cells[0].attacked_in(p), g.left, rates, gates).seconds for g in some))
        for p in PRECISIONS
    ]
    told = ", ".join(f"{name} {spent}" for name, spent in zip(PRECISIONS, found, strict=True))
    if some:
        yield f"By the precision of the attacks (--attack-precision): {told}; judge and gates in float32."


def open_store(db: str) -> Store | None:
    """The database of a run, to read; None where nothing is done yet."""
    try:
        return Store(db, readonly=True)
    except StoreError:
        path = sqlite_path(parse_url(db))
        if path is not None and not path.exists():
            return None
        raise


def count_forward(cell: Cell) -> int:
    """Count forward passes of the score network, or of the classifier without a purifier; gradients add to it."""
    answers = sum(cell.attack.usual_queries()) + count_judged(cell)
    return round(cell.num_images * answers * max(1, cell.defense.network_evaluations))
