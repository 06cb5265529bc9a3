"""Tables without a format: which cell stands where, what is bold, which notes stand under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.report.entries import FAILED, NAMED, PASSED, VALUES, Entry, Notes, label
from bench.report.frames import Cell, gates_failed, name_twins, name_variants, pooled, ran
from bench.report.numbers import DASH, TITLES, absent, name_text, percent_text

SECTION = ("dataset", "norm", "epsilon", "attack")  # what is in neither rows nor columns makes tables of their own
ALWAYS = ("classifier", "gradient", "num_images", "tier")  # in every row, or in the heading where all rows agree
HOISTED = ("classifier", "num_images", "tier")
Names = tuple[str, ...]
WIDEST = 170  # letters on a line that a turned page still shows in a readable size
QUICK = "quick tier: not a robustness claim"


@dataclass(frozen=True, kw_only=True)
class Table:
    """How a grid wants its cells laid out.

    name: for labels and `--table`. rows, columns: columns of the view `results` that name a row, a column group.
    values: what a group shows, names of `VALUES`. where: column -> value, or tuple of values, that a cell must have;
    only: what else it must fulfil. beside: columns that it has in this table in place of its own. A value of `NAMED`
    tells cells of one row apart instead of parting rows: cells that share a place stand below each other. always:
    fields of a defense that its name shows. names: replacements in names of rows and columns, made in this order.
    """

    name: str
    title: str = ""
    caption: str = ""
    rows: tuple[str, ...] = ("defense", "gradient")
    columns: tuple[str, ...] = ("attack",)
    values: tuple[str, ...] = ("robust", "null", "published")
    where: Mapping[str, Any] = field(default_factory=dict)
    only: Callable[[Cell], bool] = lambda cell: True
    beside: Callable[[Cell], Mapping[str, Any]] = lambda cell: {}
    always: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.values:
            _known("value of a table", name, VALUES)
        for name in (*self.rows, *self.columns):
            _known("row or column of a table", name, TITLES)

    def shows(self, cell: Cell) -> bool:
        """Whether a cell belongs here."""
        wishes = ((cell.get(name), wish if isinstance(wish, tuple) else (wish,)) for name, wish in self.where.items())
        return all(value in wish for value, wish in wishes) and self.only(cell)

    def long(self) -> Table:
        """The same cells, one a row, for narrow screens."""
        named = tuple(value for value in self.values if value in NAMED)
        values = tuple(value for value in self.values if value not in NAMED)
        return replace(self, rows=(self.rows[0], *self.columns, *self.rows[1:], *named), columns=(), values=values)


def _known(kind: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        from defenses.registry import unknown_name

        raise unknown_name(kind, name, known)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table ready to be written. header: (group, heading) of each column; the first `labels` columns are names."""

    name: str
    title: str
    caption: str
    header: list[tuple[str, str]]
    rows: list[list[Entry]]
    labels: int
    notes: Notes
    legend: list[str]

    @property
    def width(self) -> int:
        """Letters that the longest line needs, two between columns."""
        columns = zip(*self.rows, strict=True)
        return sum(2 + max(len(entry.text) + len(entry.beside) for entry in column) for column in columns)

    def marked_notes(self) -> list[tuple[str, str]]:
        """Footnotes with their letters."""
        return [(self.notes.mark(text), text) for text in self.notes.texts]


def sheets(table: Table, cells: Sequence[Cell], *, grid_known: bool = False) -> list[Sheet]:
    """One sheet for every section (data set and threat, unless these are rows or columns) among the cells.

    A sheet too wide for a page has a row for each cell instead. grid_known: the cells are all that were planned, so
    that a place without one stays empty instead of a dash.
    """
    wanted = (cell for cell in cells if table.shows(cell))
    chosen = pooled([{**cell, **table.beside(cell), "names": table.names} for cell in wanted])
    scope = [name for name in SECTION if name not in table.rows + table.columns + table.values]
    sections: dict[tuple[str, ...], list[Cell]] = {}
    for cell in chosen:
        sections.setdefault(tuple(name_text(name, cell.get(name)) for name in scope), []).append(cell)
    found = [_fitting(table, group, scope, grid_known) for group in sections.values()]
    return [replace(sheet, name=f"{sheet.name}-{i}" if i else sheet.name) for i, sheet in enumerate(found)]


def _fitting(table: Table, cells: Sequence[Cell], scope: Sequence[str], grid_known: bool) -> Sheet:
    sheet = _sheet(table, cells, scope, grid_known)
    return _sheet(table.long(), cells, scope, grid_known) if table.columns and sheet.width > WIDEST else sheet


def _sheet(table: Table, cells: Sequence[Cell], scope: Sequence[str], grid_known: bool) -> Sheet:
    name_variants(cells, "defense", table.always)
    name_variants(cells, "attack")
    keys = [name for name in ALWAYS[:1] if name not in table.rows + table.columns] + list(table.rows)
    keys += [name for name in ALWAYS[1:] if name not in (*keys, *table.columns, *table.values)]
    shown = (*keys, *table.values)
    constant = [name for name in HOISTED if name in shown and len({label(cell, name) for cell in cells}) == 1]
    heading = ", ".join(_heading(cells[0], [*scope, *constant]))
    keys = [name for name in keys if name not in constant]
    table = replace(table, values=tuple(value for value in table.values if value not in constant))
    places = (*keys, *table.columns, *(value for value in table.values if value in NAMED))
    name_twins(cells, lambda cell: tuple(label(cell, key) for key in places))
    notes = Notes()
    header, rows = _body(table, cells, keys, notes, "" if grid_known else DASH)
    return Sheet(
        name=table.name,
        title=f"{table.title}: {heading}" if table.title else heading,
        caption=table.caption,
        header=header,
        rows=rows,
        labels=len(keys),
        notes=notes,
        legend=_legend(cells, header, rows),
    )


def _heading(cell: Cell, names: Sequence[str]) -> Iterator[str]:
    threat = [name_text(name, cell.get(name)) for name in ("norm", "epsilon") if name in names]
    for name in names:
        if name == "norm" or (name == "epsilon" and len(threat) == 1):
            yield " ".join(threat)
        elif name != "epsilon" and cell.get(name) is not None:
            yield _word(cell, name, tier="{} tier")


def _word(cell: Cell, name: str, **forms: str) -> str:
    return {"num_images": "{} images", **forms}.get(name, "{}").format(label(cell, name))


def _places(cells: Sequence[Cell], keys: Sequence[str], table: Table) -> list[list[Cell | None]]:
    """Cells by row and column group, in order of first appearance; cells in one place are stacked or refused."""
    places: dict[tuple[tuple[str, int], ...], dict[Names, Cell]] = {}
    first: dict[tuple[tuple[str, int], ...], int] = {}
    for cell in cells:
        column = tuple(label(cell, key) for key in table.columns)
        copy = 0
        while column in places.setdefault(row := (*((label(cell, key), 0) for key in keys), ("", copy)), {}):
            copy += 1
            if not any(value in NAMED for value in table.values):
                raise ValueError(
                    f"Two cells in one place of a table, {', '.join([name for name, _ in row[:-1]] + list(column))}: "
                    f"{places[row][column].get('cell_key')} and {cell.get('cell_key')}. Filter one away, or name what "
                    "differs among the table's rows."
                )
        places[row][column] = cell
        for end in range(1, len(row) + 1):
            first.setdefault(row[:end], len(first))
    rows = sorted(places, key=lambda row: [first[row[:end]] for end in range(1, len(row) + 1)])
    columns = list(dict.fromkeys(column for found in places.values() for column in found))
    return [[places[row].get(column) for column in columns] for row in rows]


def _body(
    table: Table, cells: Sequence[Cell], keys: Sequence[str], notes: Notes, hole: str
) -> tuple[list[tuple[str, str]], list[list[Entry]]]:
    places = _places(cells, keys, table)
    groups = [[cell for row in places if (cell := row[i]) is not None] for i in range(len(places[0]))]
    hoisted = [_constant(group, table) for group in groups]
    shown = [
        (i, value)
        for i in range(len(groups))
        for value in table.values
        if value not in hoisted[i] and _filled(places, i, value)
    ]
    best = _best(cells, table.columns)

    def entry(cell: Cell | None, value: str) -> Entry:
        if cell is None:
            return Entry(hole)
        return replace(VALUES[value][1](cell, notes), bold=value == "robust" and id(cell) in best)

    null = "null" not in table.values and any(row_text(row, "null") != DASH for row in places)
    once = ("clean", "null") if null else ("clean",)  # in whatever columns a table has, a null control stands beside
    header = [*(("", TITLES[key]) for key in keys), *(("", VALUES[name][0]) for name in once)]
    for i, value in shown:
        names = dict.fromkeys(_word(groups[i][0], name) for name in (*table.columns, *hoisted[i]))
        header.append((" ".join(names), VALUES[value][0]))
    rows = [
        [
            *(Entry(label(_first(row), key)) for key in keys),
            *(Entry(row_text(row, name)) for name in once),
            *(entry(row[i], value) for i, value in shown),
        ]
        for row in places
    ]
    return header, rows


def _constant(cells: Sequence[Cell], table: Table) -> list[str]:
    """The `NAMED` values that a column group's cells share: they stand in its heading."""
    named = [value for value in table.values if value in NAMED and table.columns]
    return [value for value in named if len({label(cell, value) for cell in cells}) == 1]


def _filled(places: Sequence[Sequence[Cell | None]], column: int, value: str) -> bool:
    """Whether a column has anything to show; the robust one always stays, dashes and all."""
    entries = (VALUES[value][1](row[column] or {}, Notes()) for row in places) if value != "robust" else ()
    return value == "robust" or any(entry.text not in ("", DASH) for entry in entries)


def _first(cells: Iterable[Cell | None]) -> Cell:
    return next(cell for cell in cells if cell is not None)


def row_text(row: Sequence[Cell | None], kind: str) -> str:
    """Clean or null accuracy of a row: one number where its cells agree to the decimal, else their range."""
    values = [cell[f"{kind}_accuracy"] for cell in row if cell and not absent(cell.get(f"{kind}_accuracy"))]
    if not values:
        return DASH
    return "–".join(dict.fromkeys((percent_text(min(values)), percent_text(max(values)))))


def _best(cells: Sequence[Cell], columns: Sequence[str]) -> set[int]:
    """Ids of the best robust cells: equal classifier, column, threat (gradient too) and tier; no gate failed; ties all.

    A lone cell is best of nothing and stays plain.
    """
    rivals: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        if ran(cell) and not gates_failed(cell) and not cell.get("outdone"):
            same = (
                "dataset",
                "classifier",
                "norm",
                "epsilon",
                "gradient",
                "tier",
                "attack_label",
                *(name for name in columns if name != "defense"),
            )
            rivals.setdefault(tuple(str(cell.get(name)) for name in same), []).append(cell)
    winners: set[int] = set()
    for group in rivals.values():
        top = max(round(cell["robust_accuracy"], 1) for cell in group)
        if len(group) > 1:
            winners |= {id(cell) for cell in group if round(cell["robust_accuracy"], 1) == top}
    return winners


def _legend(cells: Sequence[Cell], header: Sequence[tuple[str, str]], rows: Sequence[Sequence[Entry]]) -> list[str]:
    shown = {heading for _, heading in header}
    beside = {word for row in rows for entry in row for word in entry.beside.split()}
    lines = ["Accuracies in percent of the images, with 95 % intervals [low, high]."]
    if "Null" in shown:
        lines.append("Null: the same protocol with epsilon 0.")
    if "±" in beside:
        lines.append("±: standard deviation between the pooled runs.")
    if beside & {PASSED, FAILED}:
        lines.append(f"{PASSED} every validity gate passed, {FAILED} one failed, or another gradient finds more.")
    if "n/c" in beside:
        lines.append("n/c: not comparable.")
    if any(entry.bold for row in rows for entry in row):
        lines.append("Best robust accuracy under the same threat, gradient and tier stands out.")
    if any(entry.text == DASH for row in rows for entry in row):
        lines.append(f"{DASH}: not run.")
    if any(cell.get("tier") == "quick" for cell in cells):
        lines.append(f"{QUICK}.")
    return lines
