"""`bench report`: the tables of a grid, or of everything measured."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.cell import Cell
from bench.grids import grid_cells, load_grid
from bench.report import render
from bench.store import Store

TITLE = "Robust accuracy"


def report(db: str, grid: str | None, form: str, *, fragment: bool = False) -> str:
    """The tables in one of the formats of `bench.report.render`."""
    with Store(db, readonly=True) as store:
        return tables(store, grid, grid_cells(grid) if grid else None, form, fragment=fragment)


def tables(store: Store, grid: str | None, cells: Sequence[Cell] | None, form: str, *, fragment: bool = False) -> str:
    """Tables of the given cells (None: of every cell measured); what has not run yet is a dash."""
    frame = store.frame()
    expected = None
    if cells is not None:
        frame = frame[frame["cell_key"].isin([cell.key for cell in cells])]
        expected = _expected(store, cells)
    module = load_grid(grid) if grid else None
    title = getattr(module, "TITLE", TITLE)
    return render(
        frame,
        format=form,
        title=title,
        caption=getattr(module, "CAPTION", None),
        expected=expected,
        tables=getattr(module, "TABLES", ()),
        standalone=not fragment,
    )


def _expected(store: Store, cells: Sequence[Cell]) -> pd.DataFrame:
    """What the grid names, run or not: the published number beside it, and the error of a cell that failed last."""
    published = {row["key"]: row for row in store.published()}
    rows = []
    for cell in cells:
        known = published.get(cell.published or "", {})
        last = next(iter(store.runs_of(cell.key)), {})
        rows.append(
            {
                **cell.row(),
                "cell_key": cell.key,
                "published_robust": known.get("robust_acc"),
                "published_source": known.get("source_key"),
                "published_confidence": known.get("confidence"),
                "error": last.get("error_message") if last.get("status") == "failed" else None,
            }
        )
    return pd.DataFrame(rows)
