"""Sheets as LaTeX: booktabs, shrunk to the line where too wide, everything escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from bench.report.layout import Entry, Notes, Sheet
from bench.report.numbers import COLUMN_TITLES

PACKAGES = "booktabs,amssymb,graphicx"
LONG = 32  # rows that a page has room for
WIDE = 100  # letters on a line beyond which the page is turned
SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "—": "---",
    "✓": r"$\checkmark$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "ε": r"$\varepsilon$",
    "·": r"$\cdot$",
}


def escape(text: str) -> str:
    """`text` for LaTeX: special letters escaped, others outside ASCII in their nearest ASCII form."""
    return "".join(SPECIAL.get(letter) or _ascii(letter) for letter in " ".join(text.split()))


def _ascii(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(part, part) for part in plain) or "?"


def document(sheets: Sequence[Sheet], *, standalone: bool) -> str:
    """Floats, ready to \\input, or with `standalone` a document that compiles with pdflatex as it is.

    A sheet longer than a page becomes several floats.
    """
    sheets = [part for sheet in sheets for part in _parts(sheet)]
    body = "\n".join(_float(sheet) for sheet in sheets)
    if not standalone:
        return f"% needs \\usepackage{{{PACKAGES}}}\n{body}"
    turned = "landscape," if max(sheet.width for sheet in sheets) > WIDE else ""
    return (
        "\\documentclass{article}\n"
        f"\\usepackage[a4paper,{turned}margin=2cm]{{geometry}}\n"
        f"\\usepackage{{{PACKAGES}}}\n"
        f"\\begin{{document}}\n{body}\\end{{document}}\n"
    )


def _parts(sheet: Sheet) -> list[Sheet]:
    """The sheet, cut into parts that fit on a page; footnotes and legend stand under the last."""
    count = -(-len(sheet.rows) // LONG)
    if count == 1:
        return [sheet]
    cut = [sheet.rows[i * LONG : (i + 1) * LONG] for i in range(count)]
    return [
        replace(
            sheet,
            name=f"{sheet.name}-part-{i + 1}",
            title=f"{sheet.title} ({i + 1} of {count})",
            rows=rows,
            notes=sheet.notes if i == count - 1 else Notes(),
            legend=sheet.legend if i == count - 1 else [],
        )
        for i, rows in enumerate(cut)
    ]


def _float(sheet: Sheet) -> str:
    title = escape(". ".join(filter(None, (sheet.title, sheet.caption.rstrip("."))))) + "."
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{title}}}\vspace{{4pt}}",
        rf"\label{{tab:{''.join(c if c.isalnum() else '-' for c in sheet.name)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        *_tabular(sheet),
        r"}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        escape(" ".join(sheet.legend)),
        *(rf"\par\textsuperscript{{{mark}}} {escape(text)}" for mark, text in sheet.marked_notes()),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(sheet: Sheet) -> list[str]:
    split = [any(row[i].beside or row[i].marks for row in sheet.rows) for i in range(len(sheet.header))]
    words = [i < sheet.labels or heading in COLUMN_TITLES.values() for i, (_, heading) in enumerate(sheet.header)]
    columns = "".join("l" if word else r"r@{\;}l" if two else "r" for word, two in zip(words, split, strict=True))
    return [
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *_groups(sheet, split),
        " & ".join(_heading(name, two) for (_, name), two in zip(sheet.header, split, strict=True)) + r" \\",
        r"\midrule",
        *(" & ".join(_entry(entry, two) for entry, two in zip(row, split, strict=True)) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _heading(name: str, two: bool) -> str:
    return rf"\multicolumn{{2}}{{c}}{{{escape(name)}}}" if two else escape(name)


def _groups(sheet: Sheet, split: Sequence[bool]) -> list[str]:
    """The line of group names with its rules, where there are groups."""
    if not any(group for group, _ in sheet.header):
        return []
    names, rules, start = [], [], 1
    for name, members in groupby(zip(sheet.header, split, strict=True), key=lambda pair: pair[0][0]):
        width = sum(1 + two for _, two in members)
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" if name else " & " * (width - 1))
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if name else []
        start += width
    return [" & ".join(names) + r" \\", " ".join(rules)]


def _entry(entry: Entry, two: bool) -> str:
    text = rf"\textbf{{{escape(entry.text)}}}" if entry.bold else escape(entry.text)
    if not two:
        return text
    marks = rf"\textsuperscript{{{entry.marks}}}" if entry.marks else ""
    return f"{text} & {{\\footnotesize {escape(entry.beside)}}}{marks}" if entry.beside or marks else f"{text} & "
