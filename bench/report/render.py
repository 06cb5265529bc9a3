"""One door for every format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from bench.draw import MissingMatplotlib
from bench.report import latex, markup
from bench.report.curve import Curve, svg
from bench.report.frames import Result, cells_of, printable_frame, take_planned_batch_sizes, with_expected
from bench.report.layout import Sheet, Table, sheets
from bench.report.outdone import with_outdone
from bench.report.plain import plain
from bench.report.pooling import ImagesOf

if TYPE_CHECKING:
    import pandas as pd

DATA = ("csv", "json")
SHOWN_ONLY = ("_texts", "_always", "_caveat")  # columns that say how a cell is written, not what it is
FORMATS = ("text", "latex", "markdown", "html", *DATA, "svg")


def render(
    frame: pd.DataFrame,
    *,
    format: str,
    title: str | None = None,
    caption: str | None = None,
    expected: pd.DataFrame | None = None,
    tables: Sequence[Table] = (),
    curve: Curve | None = None,
    standalone: bool = False,
    images: ImagesOf | None = None,
) -> str:
    """The results as text.

    Args:
        frame: rows of the view `results`; columns such as `defense_title` (see `bench.commands.titles`) name what is
            shown.
        format: one of FORMATS. "csv" and "json" hold the rows themselves, every column, and `tables`, the names of the
            layouts that show them.
        title: heading where the grid has no tables of its own.
        caption: sentence below it.
        expected: the planned cells (identifying columns and cell_key; `error` for one that failed; published_* where
            known): what has not run shows a dash.
        tables: a grid's own layouts; without them, one table a data set and threat, a row a defense and gradient, a
            group of columns an attack.
        curve: what "svg" draws, and "html" too, under its tables.
        standalone: LaTeX and HTML as a whole document.
        images: run_id -> its images, so that pooled seeds count a picture once; see `pool_seeds`.

    Raises:
        LookupError: an unknown format.
        ValueError: a frame without the needed columns, without any cell, or without a curve to draw.
    """
    if format not in FORMATS:
        from defenses.registry import unknown_name

        raise unknown_name("format", format, FORMATS)
    frame, expected = printable_frame(frame), None if expected is None else printable_frame(expected)
    complete = with_expected(with_outdone(frame, images), expected)
    if format in DATA:
        return _write_rows(complete.drop(columns="outdone_to", errors="ignore"), format, tables)
    cells = cells_of(complete)
    if expected is not None:
        take_planned_batch_sizes(cells, expected)
    layouts = list(tables) or [Table(name="results", title=title or "", caption=caption or "")]
    written = _lay_out(layouts, cells, format, expected is not None, images)
    if format == "svg":
        return _draw(curve, cells, images)
    if tables and len(written) > 1 and format != "latex":  # LaTeX numbers its floats itself
        written = [replace(sheet, title=f"Table {i}. {sheet.title}") for i, sheet in enumerate(written, 1)]
    figure = _figure(curve, cells, images) if format == "html" else ""
    return _writer(format, standalone, figure)(written)


def _lay_out(
    layouts: Sequence[Table], cells: Sequence[Result], format: str, grid_known: bool, images: ImagesOf | None
) -> list[Sheet]:
    if format == "text":
        layouts = [layout.long() for layout in layouts]
    written = [sheet for layout in layouts for sheet in sheets(layout, cells, grid_known=grid_known, images=images)]
    if not written:
        raise ValueError("Expected at least one cell to show, found none. Run `bench run`, or widen the filter.")
    return written


def _draw(curve: Curve | None, cells: Sequence[Result], images: ImagesOf | None) -> str:
    if curve is None:
        raise ValueError("Expected a grid with a curve for --format svg, found none. `--grid noise_level` has one.")
    return svg(curve, cells, images)


def _figure(curve: Curve | None, cells: Sequence[Result], images: ImagesOf | None) -> str:
    """The curve under tables in HTML; a sentence in its place where nothing can draw it."""
    try:
        return svg(curve, cells, images) if curve is not None else ""
    except MissingMatplotlib as error:
        return f"<p>{escape(str(error))}</p>"


def _write_rows(frame: pd.DataFrame, format: str, tables: Sequence[Table]) -> str:
    rows = _with_tables(frame, tables) if tables else frame
    rows = rows.drop(columns=[name for name in rows.columns if str(name).endswith(SHOWN_ONLY)])
    return _csv(rows) if format == "csv" else _json(rows)


def _writer(format: str, standalone: bool, figure: str) -> Callable[[Sequence[Sheet]], str]:
    return {
        "text": plain,
        "latex": lambda found: latex.document(found, standalone=standalone),
        "markdown": markup.markdown,
        "html": lambda found: markup.html(found, standalone=standalone, figure=figure),
    }[format]


def _with_tables(frame: pd.DataFrame, tables: Sequence[Table]) -> pd.DataFrame:
    """The rows that the tables show, with a column `tables` of their names."""
    names = [" ".join(table.name for table in tables if table.shows(cell)) for cell in cells_of(frame)]
    named = frame.assign(tables=names)
    return named[named["tables"] != ""]


def _csv(frame: pd.DataFrame) -> str:
    nested = frame.map(lambda value: json.dumps(value) if isinstance(value, (dict, list)) else value)
    return nested.to_csv(index=False, lineterminator="\n")


def _json(frame: pd.DataFrame) -> str:
    return json.dumps(cells_of(frame), indent=2, ensure_ascii=False, default=str) + "\n"
