"""Tables without a format: which cell stands where, what is bold, which notes stand under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.report.entries import FAILED, NAMED, PASSED, VALUES, Entry, Notes
from bench.report.frames import Result, gates_failed, has_run, warnings_of
from bench.report.labels import label_of, name_models, part_rest, part_twins, set_labels
from bench.report.numbers import COLUMN_TITLES, DASH, absent, name_text, percent_text
from bench.report.pooling import ImagesOf, pool_seeds

SECTION = ("dataset", "norm", "epsilon", "attack")  # what is in neither rows nor columns makes tables of their own
ALWAYS = ("classifier", "gradient", "num_images", "tier")  # in every row, or in the heading where all rows agree
HOISTED = ("classifier", "num_images", "tier")
Names = tuple[str, ...]
WIDEST = 170  # letters on a line that a turned page still shows in a readable size
QUICK_TIER = "quick tier: not a robustness claim"


@dataclass(frozen=True, kw_only=True)
class Table:
    """How a grid wants its cells laid out.

    Attributes:
        name: for labels and `--table`.
        title: heading; data set, threat and what all rows share follow it.
        caption: sentence below the heading.
        rows: columns of the view `results` that name a row.
        columns: columns of the view `results` that name a group of columns.
        values: what a group shows, names of `VALUES`. One of `NAMED` tells cells of one row apart instead of making
            rows of them; cells that share a place stand below each other.
        where: column -> value, or tuple of values, that a cell must have.
        only: what else a cell must fulfil.
        overrides: cell -> columns that it has in this table in place of its own.
    """

    name: str
    title: str = ""
    caption: str = ""
    rows: tuple[str, ...] = ("defense", "gradient")
    columns: tuple[str, ...] = ("attack",)
    values: tuple[str, ...] = ("robust", "null", "published")
    where: Mapping[str, Any] = field(default_factory=dict)
    only: Callable[[Result], bool] = lambda cell: True
    overrides: Callable[[Result], Mapping[str, Any]] = lambda cell: {}

    def __post_init__(self) -> None:
        for name in self.values:
            _check_known("value of a table", name, VALUES)
        for name in (*self.rows, *self.columns):
            _check_known("row or column of a table", name, COLUMN_TITLES)

    def shows(self, cell: Result) -> bool:
        """Whether a cell belongs here."""
        wishes = ((cell.get(name), wish if isinstance(wish, tuple) else (wish,)) for name, wish in self.where.items())
        return all(value in wish for value, wish in wishes) and self.only(cell)

    def long(self) -> Table:
        """The same cells, one a row, for narrow screens."""
        named = tuple(value for value in self.values if value in NAMED)
        values = tuple(value for value in self.values if value not in NAMED)
        return replace(self, rows=(self.rows[0], *self.columns, *self.rows[1:], *named), columns=(), values=values)


def _check_known(kind: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        from defenses.registry import unknown_name

        raise unknown_name(kind, name, known)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table ready to be written.

    Attributes:
        name: for labels.
        title: heading.
        caption: sentence below it.
        header: (group, heading) of each column.
        rows: as many entries each as the header has columns.
        labels: number of columns, from the left, that hold names.
        notes: footnotes.
        legend: sentences on what the marks mean.
    """

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


def sheets(
    table: Table, cells: Sequence[Result], *, grid_known: bool = False, images: ImagesOf | None = None
) -> list[Sheet]:
    """One sheet for every section (data set and threat, unless these are rows or columns) among the cells.

    A sheet too wide for a page has a row for each cell instead.

    Args:
        table: which cells, and where.
        cells: results, decoded; see `cells_of`.
        grid_known: the cells are all that were planned, so that a place without one stays empty instead of a dash.
        images: run_id -> its images, see `pool_seeds`.
    """
    chosen = pool_seeds([{**cell, **table.overrides(cell)} for cell in cells if table.shows(cell)], images)
    scope = [name for name in SECTION if name not in table.rows + table.columns + table.values]
    sections: dict[tuple[str, ...], list[Result]] = {}
    for cell in chosen:
        sections.setdefault(tuple(name_text(name, cell.get(name)) for name in scope), []).append(cell)
    hole = "" if grid_known else DASH
    found = [_fitting_sheet(table, group, scope, hole) for group in sections.values()]
    return [replace(sheet, name=f"{sheet.name}-{i}" if i else sheet.name) for i, sheet in enumerate(found)]


def _fitting_sheet(table: Table, cells: Sequence[Result], scope: Sequence[str], hole: str) -> Sheet:
    sheet = _make_sheet(table, cells, scope, hole)
    return _make_sheet(table.long(), cells, scope, hole) if table.columns and sheet.width > WIDEST else sheet


def _make_sheet(table: Table, cells: Sequence[Result], scope: Sequence[str], hole: str) -> Sheet:
    set_labels(cells)
    keys = _row_names(table)
    constant = [n for n in HOISTED if n in (*keys, *table.values) and len({label_of(c, n) for c in cells}) == 1]
    heading = ", ".join(_heading(cells[0], [*scope, *constant]))
    keys = [name for name in keys if name not in constant]
    table = replace(table, values=tuple(value for value in table.values if value not in constant))
    named = [value for value in table.values if value in NAMED]
    if "classifier" in (*keys, *table.columns):
        name_models(cells)
    shown = (*keys, *table.columns, *named)
    part_twins(cells, lambda cell: tuple(label_of(cell, key) for key in shown))
    if shown and not any(value in NAMED for value in table.values):  # else they stand below each other
        told = "defense" if "defense" in shown else shown[0]
        part_rest(cells, lambda cell: tuple(label_of(cell, key) for key in shown), told)
    notes = Notes()
    header, rows = _Body(table, cells, keys, notes, hole).written()
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


def _row_names(table: Table) -> list[str]:
    """What names a row: the table's own, and of ALWAYS what stands nowhere else."""
    keys = [name for name in ALWAYS[:1] if name not in table.rows + table.columns] + list(table.rows)
    return keys + [name for name in ALWAYS[1:] if name not in (*keys, *table.columns, *table.values)]


def _heading(cell: Result, names: Sequence[str]) -> Iterator[str]:
    threat = [name_text(name, cell.get(name)) for name in ("norm", "epsilon") if name in names]
    for name in names:
        if name == "norm" or (name == "epsilon" and len(threat) == 1):
            yield " ".join(threat)
        elif name != "epsilon" and cell.get(name) is not None:
            yield _word(cell, name, tier="{} tier")


def _word(cell: Result, name: str, **forms: str) -> str:
    return {"num_images": "{} images", **forms}.get(name, "{}").format(label_of(cell, name))


class _Body:
    """Header and rows of a sheet, step by step: places, then what each group of columns shows, then the entries."""

    def __init__(self, table: Table, cells: Sequence[Result], keys: Sequence[str], notes: Notes, hole: str) -> None:
        self.table, self.keys, self.notes, self.hole = table, keys, notes, hole
        self.places = _places(cells, keys, table)
        columns = range(len(self.places[0]))
        self.groups = [[cell for row in self.places if (cell := row[i]) is not None] for i in columns]
        self.hoisted = [self._shared_names(group) for group in self.groups]
        self.best = _best(cells, table.columns)

    def written(self) -> tuple[list[tuple[str, str]], list[list[Entry]]]:
        """(header, rows); a null control stands beside every row, in whatever columns the table has."""
        null = "null" not in self.table.values and any(row_text(row, "null") != DASH for row in self.places)
        once = ("clean", "null") if null else ("clean",)
        shown = self._shown()
        return self._header(once, shown), [self._row(row, once, shown) for row in self.places]

    def _shared_names(self, cells: Sequence[Result]) -> list[str]:
        """The `NAMED` values that a column group's cells share: they stand in its heading."""
        named = [value for value in self.table.values if value in NAMED and self.table.columns]
        return [value for value in named if len({label_of(cell, value) for cell in cells}) == 1]

    def _shown(self) -> list[tuple[int, str]]:
        """(column group, value) of each column of numbers; one with nothing to show is left out."""
        every = [(i, value) for i in range(len(self.groups)) for value in self.table.values]
        return [(i, value) for i, value in every if value not in self.hoisted[i] and self._is_filled(i, value)]

    def _is_filled(self, column: int, value: str) -> bool:
        """Whether a column has anything to show; the robust one always stays, dashes and all."""
        if value == "robust":
            return True
        entries = (VALUES[value][1](row[column] or {}, Notes()) for row in self.places)
        return any(entry.text not in ("", DASH) for entry in entries)

    def _header(self, once: Sequence[str], shown: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
        header = [*(("", COLUMN_TITLES[key]) for key in self.keys), *(("", VALUES[name][0]) for name in once)]
        for i, value in shown:
            first = self.groups[i][0]
            names = dict.fromkeys(_word(first, name) for name in (*self.table.columns, *self.hoisted[i]))
            header.append((" ".join(names), VALUES[value][0]))
        return header

    def _row(self, row: Sequence[Result | None], once: Sequence[str], shown: Sequence[tuple[int, str]]) -> list[Entry]:
        first = next(cell for cell in row if cell is not None)
        return [
            *(Entry(label_of(first, key)) for key in self.keys),
            *(Entry(row_text(row, name)) for name in once),
            *(self._entry(row[i], value) for i, value in shown),
        ]

    def _entry(self, cell: Result | None, value: str) -> Entry:
        if cell is None:
            return Entry(self.hole)
        return replace(VALUES[value][1](cell, self.notes), bold=value == "robust" and id(cell) in self.best)


def _places(cells: Sequence[Result], keys: Sequence[str], table: Table) -> list[list[Result | None]]:
    """Cells by row and column group, in order of first appearance; cells in one place are stacked."""
    places: dict[tuple[tuple[str, int], ...], dict[Names, Result]] = {}
    order: dict[tuple[tuple[str, int], ...], list[int]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for cell in cells:
        column = tuple(label_of(cell, key) for key in table.columns)
        copy = 0
        while column in places.setdefault(row := (*((label_of(cell, key), 0) for key in keys), ("", copy)), {}):
            copy += 1
        places[row][column] = cell
        standing = (*(cell.get(f"{key}_place") or label_of(cell, key) for key in keys), copy, row)
        for end in range(1, len(standing) + 1):
            first.setdefault(standing[:end], len(first))
        order.setdefault(row, [first[standing[:end]] for end in range(1, len(standing) + 1)])
    rows = sorted(places, key=lambda row: order[row])
    columns = list(dict.fromkeys(column for found in places.values() for column in found))
    return [[places[row].get(column) for column in columns] for row in rows]


def row_text(row: Sequence[Result | None], kind: str) -> str:
    """Clean or null accuracy of a row: one number where its cells agree to the decimal, else their range."""
    values = [cell[f"{kind}_accuracy"] for cell in row if cell and not absent(cell.get(f"{kind}_accuracy"))]
    if not values:
        return DASH
    return "–".join(dict.fromkeys((percent_text(min(values)), percent_text(max(values)))))


def _best(cells: Sequence[Result], columns: Sequence[str]) -> set[int]:
    """Ids of the best robust cells: equal classifier, column, threat (gradient too) and tier; no gate failed; ties all.

    Nor is one whose attack was weak or too short, or one below what a stronger attack left of another row, since it may
    not have met that attack.

    A lone cell is best of nothing and stays plain.
    """
    rivals: dict[tuple[Any, ...], list[Result]] = {}
    for cell in cells:
        if has_run(cell) and not (gates_failed(cell) or warnings_of(cell)):
            same = (
                "dataset",
                "classifier",
                "norm",
                "epsilon",
                "gradient",
                "noise",
                "tier",
                "attack_label",
                *(name for name in columns if name != "defense"),
            )
            rivals.setdefault(tuple(str(cell.get(name)) for name in same), []).append(cell)
    winners: set[int] = set()
    for group in rivals.values():
        whole = [cell for cell in group if not cell.get("outdone")]
        left = [cell["robust_accuracy"] for cell in whole]
        left += [cell["outdone_to"] for cell in group if not absent(cell.get("outdone_to"))]
        if len(whole) > 1:
            top = max(round(accuracy, 1) for accuracy in left)
            winners |= {id(cell) for cell in whole if round(cell["robust_accuracy"], 1) == top}
    return winners


def _legend(cells: Sequence[Result], header: Sequence[tuple[str, str]], rows: Sequence[Sequence[Entry]]) -> list[str]:
    shown = {heading for _, heading in header}
    beside = {word for row in rows for entry in row for word in entry.beside.split()}
    lines = ["Accuracies in percent of the images, with 95 % intervals [low, high]."]
    if "Null" in shown:
        lines.append("Null: the same protocol with epsilon 0.")
    if "±" in beside:
        lines.append("±: standard deviation between the pooled runs.")
    if beside & {PASSED, FAILED}:
        failed = f"{FAILED} one failed, or another attack or gradient finds more."
        lines.append(f"{PASSED} every validity gate passed, {failed}")
    if "n/c" in beside:
        lines.append("n/c: not comparable.")
    if any(entry.bold for row in rows for entry in row):
        lines.append("Best robust accuracy under the same threat, gradient and tier stands out.")
    if any(entry.text == DASH for row in rows for entry in row):
        lines.append(f"{DASH}: not run.")
    lines += dict.fromkeys(
        f"{label_of(cell, name)}: {cell[f'{name}_details']}."
        for cell in cells
        for name in ("defense", "attack")
        if cell.get(f"{name}_details")
    )
    if any(cell.get("tier") == "quick" for cell in cells):
        lines.append(f"{QUICK_TIER}.")
    return lines
