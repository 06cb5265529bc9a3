"""Sheets as Markdown and as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from bench.report.layout import Entry, Sheet

STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "caption{text-align:left;font-weight:600;padding:.4em 0}td,th{padding:.2em .7em;text-align:right}"
    "td.name,th.name{text-align:left}thead tr:last-child th{border-bottom:1px solid}th[colspan]{text-align:center}"
    "table{border-top:2px solid;border-bottom:2px solid}small{opacity:.75}"
)


def markdown(sheets: Sequence[Sheet]) -> str:
    """One pipe table a sheet, under its title in bold, with its notes."""
    return "\n".join(_markdown_sheet(sheet) for sheet in sheets)


def _markdown_sheet(sheet: Sheet) -> str:
    header = [_literal(" ".join(names)) for names in sheet.header]
    rule = [":--" if i < sheet.labels else "--:" for i in range(len(header))]
    rows = [[_markdown_entry(entry) for entry in row] for row in sheet.rows]
    lines = [_pipes(line) for line in (header, rule, *rows)]
    notes = [f"<sup>{mark}</sup> {_literal(text)}" for mark, text in sheet.marked_notes()]
    above = [f"**{_literal(sheet.title)}**", *([_literal(sheet.caption)] if sheet.caption else [])]
    return "\n\n".join([*above, "\n".join(lines), " ".join(sheet.legend), *notes]) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _literal(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"[\\|*`<[]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _markdown_entry(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.bold else _literal(entry.text)
    marks = f"<sup>{entry.marks}</sup>" if entry.marks else ""
    return f"{text} {entry.beside}".strip() + marks


def html(sheets: Sequence[Sheet], *, standalone: bool, figure: str = "") -> str:
    """Tables in HTML and a figure under them, alone or as a page of their own."""
    body = "\n".join(_html_sheet(sheet) for sheet in sheets) + figure
    if not standalone:
        return body
    title = escape(sheets[0].title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def _html_sheet(sheet: Sheet) -> str:
    caption = ". ".join(filter(None, (sheet.title, sheet.caption)))
    notes = [f"<sup>{mark}</sup> {escape(text)}" for mark, text in sheet.marked_notes()]
    heading = "".join(f"<th{_name(sheet, i)}>{escape(name)}</th>" for i, (_, name) in enumerate(sheet.header))
    rows = ("".join(f"<td{_name(sheet, i)}>{_html_entry(e)}</td>" for i, e in enumerate(row)) for row in sheet.rows)
    return "\n".join(
        [
            f'<table id="{escape(sheet.name)}"><caption>{escape(caption)}</caption>',
            f"<thead>{_html_groups(sheet)}<tr>{heading}</tr></thead>",
            "<tbody>",
            *(f"<tr>{row}</tr>" for row in rows),
            "</tbody></table>",
            f"<p><small>{'<br/>'.join([escape(' '.join(sheet.legend)), *notes])}</small></p>\n",
        ]
    )


def _name(sheet: Sheet, column: int) -> str:
    return ' class="name"' if column < sheet.labels else ""


def _html_groups(sheet: Sheet) -> str:
    groups = [(name, len(list(members))) for name, members in groupby(group for group, _ in sheet.header)]
    if len(groups) == 1:
        return ""
    cells = (f'<th colspan="{width}">{escape(name)}</th>' for name, width in groups)
    return f"<tr>{''.join(cells)}</tr>"


def _html_entry(entry: Entry) -> str:
    text = f"<strong>{escape(entry.text)}</strong>" if entry.bold else escape(entry.text)
    beside = f" <small>{escape(entry.beside)}</small>" if entry.beside else ""
    return text + beside + (f"<sup>{entry.marks}</sup>" if entry.marks else "")
