"""Sheets as plain text for a terminal, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from bench.report.layout import Entry, Sheet

WIDTH = 100
NARROWEST = 8  # a column of names is not squeezed below this
GAP = "  "


def plain(sheets: Sequence[Sheet]) -> str:
    """One table a sheet; the best values carry a star, footnotes their letter in brackets."""
    return "\n".join(_sheet(sheet) for sheet in sheets)


def _sheet(sheet: Sheet) -> str:
    rows = [[name for _, name in sheet.header], *([_entry(entry) for entry in row] for row in sheet.rows)]
    widths = _widths(rows, sheet.labels)
    head, *body = ["\n".join(_lines(row, widths, sheet.labels)) for row in rows]
    notes = [f"({mark}) {text}" for mark, text in sheet.marked_notes()]
    above = [sheet.title, *([sheet.caption] if sheet.caption else [])]
    rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    below = [" ".join(sheet.legend), *notes]
    return "\n".join([*map(_fill, above), "", head, rule, *body, "", *map(_fill, below)]) + "\n"


def _entry(entry: Entry) -> str:
    text = entry.text + ("*" if entry.bold else "")
    return f"{text} {entry.beside}".strip() + (f" ({entry.marks})" if entry.marks else "")


def _widths(rows: Sequence[Sequence[str]], labels: int) -> list[int]:
    """Natural widths of the columns; where they exceed the screen, the widest names give way, letter by letter."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH and max(widths[:labels]) > NARROWEST:
        widths[widths.index(max(widths[:labels]))] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], labels: int) -> Iterator[str]:
    """The row, on as many lines as its longest name needs."""
    names = [textwrap.wrap(text, width) or [""] for text, width in zip(row[:labels], widths, strict=False)]
    for line in zip_longest(*names, *([text] for text in row[labels:]), fillvalue=""):
        padded = (
            text.ljust(width) if i < labels else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        yield GAP.join(padded).rstrip()


def _fill(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False)
