"""Sheets as plain text, as wide as the terminal; lines break between words and no number is cut."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from bench.report.layout import Entry, Sheet

WIDTH = 100  # of a pipe or a file
NARROWEST = 12  # a column of names is not squeezed below this while numbers can give way
GAP = 2


def find_width() -> int:
    """Columns of the terminal that this process writes to, or of $COLUMNS; WIDTH for a pipe."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size((WIDTH, 24)).columns)
    return WIDTH


def plain(sheets: Sequence[Sheet]) -> str:
    """One table a sheet; the best values carry a star, footnotes their letter in brackets."""
    width = find_width()
    return "\n".join(_sheet(sheet, width) for sheet in sheets)


def _sheet(sheet: Sheet, width: int) -> str:
    rows = [[_entry(entry) for entry in row] for row in sheet.rows]
    header = [name for _, name in sheet.header]
    notes = [f"({mark}) {text}" for mark, text in sheet.marked_notes()]
    above = [sheet.title, *([sheet.caption] if sheet.caption else [])]
    below = [" ".join(sheet.legend), *notes]
    table = _table(header, rows, sheet.labels, width)
    return "\n".join([*(_fill(text, width) for text in above), "", table, "", *(_fill(t, width) for t in below)]) + "\n"


def _entry(entry: Entry) -> str:
    text = entry.text + ("*" if entry.bold else "")
    return f"{text} {entry.beside}".strip() + (f" ({entry.marks})" if entry.marks else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], labels: int, width: int) -> str:
    columns = [[name, *(row[i] for row in rows)] for i, name in enumerate(header)]
    widths = _find_widths(columns, labels, width)
    if sum(widths) + GAP * (len(widths) - 1) > width:
        return _stack(header, rows, width)
    rule = "─" * (sum(widths) + GAP * (len(widths) - 1))
    return "\n".join(
        [*_row(header, widths, labels), rule, *(line for row in rows for line in _row(row, widths, labels))]
    )


def _row(entries: Sequence[str], widths: Sequence[int], labels: int) -> Iterator[str]:
    """Lines of one row: names stand left, numbers right. `rich` takes ten times as long for a thousand rows."""
    folded = [_fold(entry, width) for entry, width in zip(entries, widths, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        placed = [
            part.ljust(width) if i < labels else part.rjust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        yield (" " * GAP).join(placed).rstrip()


def _fold(text: str, width: int) -> list[str]:
    return [text] if len(text) <= width else textwrap.wrap(text, width, break_on_hyphens=False)


def _stack(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Row under row, a line for each column: what is left where no table fits."""
    blocks = [
        "\n".join(
            textwrap.fill(f"{name}: {text}", width, subsequent_indent="  ", break_on_hyphens=False)
            for name, text in zip(header, row, strict=True)
        )
        for row in rows
    ]
    return "\n\n".join(blocks)


def _find_widths(columns: Sequence[Sequence[str]], labels: int, width: int) -> list[int]:
    """Natural widths; on a narrow screen names give way to their longest word, then numbers, then names again."""
    widths = [max(map(len, column)) for column in columns]
    words = [max((len(word) for text in column for word in text.split()), default=1) for column in columns]
    names, numbers = range(labels), range(labels, len(columns))
    steps = ((names, words), (numbers, words), (names, [min(word, NARROWEST) for word in words]))
    room = width - GAP * (len(columns) - 1)
    for chosen, least in steps:
        while sum(widths) > room and (wide := [i for i in chosen if widths[i] > least[i]]):
            widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _fill(text: str, width: int) -> str:
    return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False)
