"""`bench report`: the tables of a grid, or of everything measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.cell import Cell
from bench.commands.choose import chosen
from bench.commands.titles import with_titles
from bench.grids import Grid, load_grid
from bench.literature.publish import LITERATURE, published_columns
from bench.literature.verdict import verdict_columns
from bench.report import Table, render, with_outdone
from bench.report.frames import cells_of
from bench.store import Store
from bench.store.smoke_mark import check_database
from defenses.base import defenses
from defenses.registry import unknown_name

TITLE = "Robust accuracy"


def report(
    db: str,
    grid: str | None,
    form: str,
    *,
    fragment: bool = False,
    table: str | None = None,
    protocol: str | None = None,
    num_images: int | None = None,
) -> str:
    """The tables of what has been measured.

    Args:
        db: the result database.
        grid: only the cells of this grid, in its tables; None for all cells.
        form: one of the formats of `bench.report.render`; "svg" is the curve of a grid that has one.
        fragment: LaTeX to \\input, instead of a document.
        table: only this one of the grid's tables.
        protocol: only these cells of the grid.
        num_images: as the grid was run.

    Raises:
        ValueError: a database of smoke runs.
    """
    if grid is None and (table or protocol or num_images):
        raise ValueError("--table, --protocol and --num-images choose among the cells of a grid. Add --grid NAME.")
    cells = chosen(grid, protocol=protocol, num_images=num_images) if grid else None
    with Store(db, readonly=True) as store:
        check_database(store, smoke=False)
        return tables(store, grid, cells, form, fragment=fragment, table=table)


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
    frame = with_outdone(store.frame(), store.images)
    frame = frame.assign(batch_note=[batch_note(row) for row in cells_of(frame)])
    expected = None
    if cells is not None:
        expected = _expected(store, cells)
        known = expected.set_index("cell_key")[list(LITERATURE)]
        frame = frame[frame["cell_key"].isin(known.index)]
        frame = frame.drop(columns=[name for name in LITERATURE if name in frame]).join(known, on="cell_key")
        frame = _with_verdicts(frame, cells, store)
    known_grid = load_grid(grid) if grid else None
    return render(
        with_titles(frame),
        format=form,
        title=known_grid.title if known_grid else TITLE,
        caption=known_grid.caption if known_grid else None,
        expected=None if expected is None else with_titles(expected),
        tables=_layouts(known_grid, table, quick=bool(cells) and all(cell.tier == "quick" for cell in cells or ())),
        curve=known_grid.curve if known_grid else None,
        standalone=not fragment,
    )


def batch_note(row: Mapping[str, Any]) -> str | None:
    """What to know of a row of `results` where the images of a defense that answers for its batch do not fill its
    batches."""
    images, size = row["num_images"], row["batch_size"]
    try:
        coupled = defenses.make(row["defense"], row["defense_params"]).batch_coupled
    except (LookupError, TypeError, ValueError):  # a defense of another version, or of someone else's
        return None
    if not coupled or images % size == 0:
        return None
    found = f"one batch of {images}" if images < size else f"batches of {size} and a last one of {images % size}"
    return f"answered in {found} images, where batch_size is {size}: the answer of this defense depends on its batch"


def _with_verdicts(frame: pd.DataFrame, cells: Sequence[Cell], store: Store) -> pd.DataFrame:
    """With the verdict beside this grid's published number: another grid, which named none, may have run the cell."""
    published, by_key = {row["key"]: row for row in store.published()}, {cell.key: cell for cell in cells}
    columns = []
    for row in frame.to_dict("records"):
        cell = by_key[row["cell_key"]]
        columns.append(verdict_columns(row, published.get(cell.published or ""), cell.defense.published_caveat))
    found = pd.DataFrame(columns, index=frame.index, columns=["verdict", "verdict_reason"])
    return frame.assign(**{name: found[name].astype(object) for name in found})


def _layouts(grid: Grid | None, table: str | None, quick: bool) -> Sequence[Table]:
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


def _expected(store: Store, cells: Sequence[Cell]) -> pd.DataFrame:
    """What the grid names, run or not: the published number beside it, and the error of a cell that failed last."""
    published = {row["key"]: row for row in store.published()}
    errors = _errors(store)
    rows = []
    for cell in cells:
        known = published.get(cell.published or "")
        rows.append({**cell.row(), **published_columns(known), "cell_key": cell.key, "error": errors.get(cell.key)})
    return pd.DataFrame(rows)


def _errors(store: Store) -> dict[str, str]:
    """Cell key -> error of its newest run, where that failed."""
    newest = "SELECT MAX(id) FROM runs GROUP BY cell_key"
    query = f"SELECT cell_key, error_message FROM runs WHERE status = 'failed' AND id IN ({newest})"
    return dict(store.query(query)[1])
