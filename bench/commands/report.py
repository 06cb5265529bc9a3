"""`bench report`: the tables of a grid, of the grid that ran last, or of everything measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.commands.names import LiveNames, Names
from bench.commands.titles import with_titles
from bench.grids import grid_label
from bench.literature.publish import LITERATURE, published_columns
from bench.literature.verdict import verdict_columns
from bench.planned import PlannedCell
from bench.report import Table, render, with_outdone
from bench.report.frames import cells_of
from bench.store import Store
from bench.store.smoke_mark import check_database
from bench.tally import Tally
from defenses.registry import unknown_name

if TYPE_CHECKING:
    from bench.cell import Cell

TITLE = "Robust accuracy"


def report(
    db: str,
    grid: str | None,
    form: str,
    *,
    every: bool = False,
    fragment: bool = False,
    table: str | None = None,
    protocol: str | None = None,
    num_images: int | None = None,
    attack_precision: str | None = None,
) -> tuple[str, str]:
    """The tables of what has been measured.

    Args:
        db: the result database.
        grid: only the cells of this grid, in its tables; None for the grid that ran last.
        form: one of the formats of `bench.report.render`; "svg" is the curve of a grid that has one.
        every: all cells instead.
        fragment: LaTeX to \\input, instead of a document.
        table: only this one of the grid's tables.
        protocol: only these cells of the grid.
        num_images: as the grid was run.
        attack_precision: as the grid was run; cells that were not measured in it stay as the grid has them.

    Returns:
        The tables, and a line that names what they leave out, or "".

    Raises:
        ValueError: a database of smoke runs, or options that contradict each other.
    """
    if grid is None and (table or protocol or num_images or attack_precision):
        raise ValueError(
            "--table, --protocol, --num-images and --attack-precision choose among the cells of a grid. Add --grid "
            "NAME."
        )
    if grid is not None and every:
        raise ValueError("--all shows every cell, --grid those of one grid. Leave one of them out.")
    from bench.commands import grid_data

    with Store(db, readonly=True) as store:
        check_database(store, smoke=False)
        names = grid_data.find_names(store)
        if every:
            return _write(store, None, None, form, names=names, fragment=fragment), ""
        if grid is None:
            return _report_last(store, form, names, fragment=fragment)
        known = grid_data.find_grid(grid, store)
        cells = known.cells(protocol)
        if not cells:
            raise LookupError(f"The grid {grid} has no cells in protocol {protocol}. Choose another.")
        if num_images is not None:
            cells = [cell.change(num_images=num_images) for cell in cells]
        if attack_precision is not None:
            measured = set(store.keys_of(grid_label(grid)))
            others = [cell.change(attack_precision=attack_precision) for cell in cells]
            shown = [other if other.key in measured else cell for cell, other in zip(cells, others, strict=True)]
            cells = list({cell.key: cell for cell in shown}.values())
        names = grid_data.join_names(known, names)
        return _write(store, known, cells, form, names=names, fragment=fragment, table=table), ""


def _report_last(store: Store, form: str, names: Names, *, fragment: bool) -> tuple[str, str]:
    """The tables of the grid that ran last, and a line with the others."""
    from bench.commands import grid_data

    counts = store.count_by_grid()
    label = store.last_grid()
    if label is None or label not in counts:
        return _write(store, None, None, form, names=names, fragment=fragment), ""
    known = grid_data.stored_grid(store, label)
    cells = grid_data.choose_shown(known, store.keys_of(label)) if known else None
    keys = None if cells else store.keys_of(label)
    text = _write(store, known if cells else None, cells or None, form, names=names, fragment=fragment, keys=keys)
    others = ", ".join(f"{name} ({count} cells)" for name, count in counts.items() if name != label)
    told = f"This is {label}, the grid that ran last here."
    if not others:
        return text, told
    return text, f"{told} Others: {others}. `bench report --grid NAME` shows one, `bench report --all` every cell."


def tables(
    store: Store,
    grid: str | None,
    cells: Sequence[Cell] | None,
    form: str,
    *,
    fragment: bool = False,
    table: str | None = None,
) -> str:
    """Tables of the given cells (None: of every cell measured); what has not run yet is a dash."""
    from bench.grids import load_grid

    planned = None if cells is None else [cell.planned() for cell in cells]
    known = load_grid(grid) if grid else None
    return _write(store, known, planned, form, names=LiveNames(), fragment=fragment, table=table)


def _write(
    store: Store,
    grid: Any,
    cells: Sequence[PlannedCell] | None,
    form: str,
    *,
    names: Names,
    fragment: bool = False,
    table: str | None = None,
    keys: Sequence[str] | None = None,
) -> str:
    """Tables of cells.

    Args:
        store: the results.
        grid: a `Grid` or a `DescribedGrid`; None is the tables that fit every grid.
        cells: what is shown, run or not; None is `keys`.
        form: the format.
        names: what tables call things.
        fragment: LaTeX to \\input, instead of a document.
        table: only this one of the grid's tables.
        keys: the cells that are shown where they have run; None is all.
    """
    shown = [cell.key for cell in cells] if cells is not None else keys
    frame = with_titles(store.frame(shown, as_text=form != "csv"), names)
    images = RunImages(store, frame)
    frame = with_outdone(frame, images)
    frame = frame if "outdone" in frame else frame.assign(outdone=None)  # the columns are those of every database
    if shown is not None:
        frame = frame[frame["cell_key"].isin(set(shown))]
    frame = frame.assign(batch_note=[batch_note(row, names) for row in cells_of(frame[list(BATCH)])])
    expected = None
    if cells is not None:
        expected = with_titles(_expected(store, cells), names)
        known = expected.set_index("cell_key")[list(LITERATURE)]
        frame = frame.drop(columns=[name for name in LITERATURE if name in frame]).join(known, on="cell_key")
        frame = _with_verdicts(frame, cells, store)
    return render(
        frame,
        format=form,
        title=grid.title if grid else TITLE,
        caption=grid.caption if grid else None,
        expected=expected,
        tables=_layouts(grid, table, quick=bool(cells) and all(c.columns["tier"] == "quick" for c in cells or ())),
        curve=grid.curve if grid else None,
        standalone=not fragment,
        images=images,
    )


KEPT = 4_000_000  # images that are kept in memory, of some 40 bytes; what is asked for again is read again
BATCH = ("num_images", "batch_size", "defense", "defense_params")


def batch_note(row: Mapping[str, Any], names: Names | None = None) -> str | None:
    """What to know of a row of `results` where the images of a defense that answers for its batch do not fill its
    batches."""
    images, size = row["num_images"], row["batch_size"]
    if not size or images % size == 0:
        return None
    if not (names or LiveNames()).is_batch_coupled(row["defense"], row["defense_params"]):
        return None
    found = f"one batch of {images}" if images < size else f"batches of {size} and a last one of {images % size}"
    return f"answered in {found} images, where batch_size is {size}: the answer of this defense depends on its batch"


class RunImages:
    """The images of the runs of a frame, counted; those of one defense are read at once, when one of them is asked
    for."""

    def __init__(self, store: Store, frame: pd.DataFrame) -> None:
        """Remember which runs belong together."""
        self._store, self._read = store, dict[int, Tally]()
        self._together: dict[int, list[int]] = {}
        if len(frame):
            for _, runs in frame.groupby(["dataset", "classifier", "defense", "epsilon"], sort=False)["run_id"]:
                self._together |= dict.fromkeys(runs.tolist(), runs.tolist())

    def __call__(self, run_id: int) -> Tally:
        """The images of a run."""
        if run_id not in self._read:
            if sum(map(len, self._read.values())) > KEPT:
                self._read.clear()
            self._read |= self._store.tallies(self._together.get(run_id, [run_id]))
        return self._read[run_id]


def _with_verdicts(frame: pd.DataFrame, cells: Sequence[PlannedCell], store: Store) -> pd.DataFrame:
    """With the verdict beside this grid's published number: another grid, which named none, may have run the cell."""
    published = {row["key"]: row for row in store.published()}
    numbers = {cell.key: cell.columns["published_key"] for cell in cells}
    columns = []
    for row in frame.to_dict("records"):
        known = published.get(numbers[row["cell_key"]] or "")
        columns.append(verdict_columns(row, known, row["defense_caveat"]))
    found = pd.DataFrame(columns, index=frame.index, columns=["verdict", "verdict_reason"])
    return frame.assign(**{name: found[name].astype(object) for name in found})


def _layouts(grid: Any, table: str | None, quick: bool) -> Sequence[Table]:
    """The tables of a grid, or one of them; where only quick cells are shown, with its note on these."""
    layouts: Sequence[Table] = grid.tables if grid else ()
    if grid and quick and grid.quick_note:
        layouts = [replace(layout, caption=f"{layout.caption} {grid.quick_note}") for layout in layouts]
    if table is None:
        return layouts
    named = {layout.name: layout for layout in layouts}
    if table not in named:
        raise unknown_name("table", table, named)
    return [named[table]]


def _expected(store: Store, cells: Sequence[PlannedCell]) -> pd.DataFrame:
    """What the grid names, run or not: the published number beside it, and the error of a cell that failed last."""
    published = {row["key"]: row for row in store.published()}
    errors = _errors(store)
    rows = []
    for cell in cells:
        known = published.get(cell.columns["published_key"] or "")
        rows.append({**cell.row(), **published_columns(known), "cell_key": cell.key, "error": errors.get(cell.key)})
    return pd.DataFrame(rows)


def _errors(store: Store) -> dict[str, str]:
    """Cell key -> error of its newest run, where that failed."""
    newest = "SELECT MAX(id) FROM runs GROUP BY cell_key"
    query = f"SELECT cell_key, error_message FROM runs WHERE status = 'failed' AND id IN ({newest})"
    return dict(store.query(query)[1])
