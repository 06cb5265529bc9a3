"""One cell of the database as entries of a table: the number, what stands beside it, and its footnotes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.report.frames import doubts_of, has_run, say_rounded
from bench.report.labels import label_of
from bench.report.numbers import COLUMN_TITLES, DASH, absent, interval_text, percent_text

PASSED, FAILED = "✓", "!"
SHORT = {"not comparable": "n/c"}
CONFIDENCE = {
    "digest": "published value from a digest of the source",
    "cited_by_other_paper": "published value as another paper cites it",
    "derived": "published value derived, not quoted",
    "inferred": "published value inferred, not quoted",
    "second_hand": "published value as others report it",
    "authors_log": "value of a log in the authors' repository, in no table of the paper",
    "authors_result_file": "value of a result file in the authors' repository, in no table of the paper",
}


@dataclass(frozen=True)
class Entry:
    """A place in a table.

    Attributes:
        text: number or name.
        beside: interval, verdict or badge, in smaller print.
        marks: letters of footnotes.
        bold: whether it stands out.
    """

    text: str = ""
    beside: str = ""
    marks: str = ""
    bold: bool = False


@dataclass
class Notes:
    """Footnotes of a table: equal texts share a letter."""

    texts: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def mark(self, text: str) -> str:
        """The letter of `text`: a .. z, then aa, ab ..."""
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return ("" if place < 26 else chr(96 + place // 26)) + chr(97 + place % 26)

    def marks(self, texts: list[str]) -> str:
        """The letters of several texts, joined by commas."""
        return ",".join(sorted((self.mark(text) for text in texts), key=lambda mark: (len(mark), mark)))


def robust(cell: Mapping[str, Any], notes: Notes) -> Entry:
    """Robust accuracy, spread between pooled runs, interval, badge of the gates with its reasons."""
    if not has_run(cell):
        error = cell.get("error")
        return Entry("failed", marks=notes.mark(str(error))) if not absent(error) else Entry(DASH)
    failed = doubts_of(cell)
    passed = any(gate.get("passed") for gate in cell.get("gates") or ())
    badge = FAILED if failed else PASSED if passed else ""
    interval = interval_text(cell.get("robust_low"), cell.get("robust_high"))
    spread = cell.get("robust_spread")
    parts = ("" if absent(spread) else f"± {spread:.1f}", interval, badge)
    unfinished = cell.get("planned", 0) - cell.get("runs", 0)
    reasons = failed + ([f"{cell['runs']} of {cell['planned']} runs so far"] if unfinished else [])
    if not absent(cell.get("batch_note")):
        reasons.append(cell["batch_note"])
    reasons += say_rounded(cell)
    return Entry(percent_text(cell["robust_accuracy"]), " ".join(filter(None, parts)), notes.marks(reasons))


def published(cell: Mapping[str, Any], notes: Notes) -> Entry:
    """The literature's number, our verdict on it; footnotes: its source, and where it was not quoted or disagrees."""
    value = cell.get("published_robust")
    if absent(value):
        return Entry() if absent(cell.get("published_table")) else Entry("not quoted", marks=notes.marks(_source(cell)))
    verdict = cell.get("verdict") if has_run(cell) else None
    reasons = _source(cell) + [CONFIDENCE[word] for word in CONFIDENCE if word in _doubts(cell)]
    if verdict and verdict != "agrees":
        reasons.append(f"{verdict}: {cell.get('verdict_reason')}")
    return Entry(percent_text(value), SHORT.get(verdict or "", verdict or ""), notes.marks(reasons))


def _source(cell: Mapping[str, Any]) -> list[str]:
    """Where the literature's number stands and how it came about, where the frame says so (`published_table`)."""
    if absent(cell.get("published_table")):
        return []
    place, images = str(cell["published_table"]), cell.get("published_images")
    where = f"{cell['published_source']} ({'table ' if place[0].isdigit() else ''}{place})"
    if place.startswith("leaderboard"):
        where = f"RobustBench, {place}"
    if absent(cell.get("published_robust")):
        return [f"{where}: {cell.get('published_notes')}"]
    stated = "number of images not stated" if absent(images) else f"{images:.0f} images"
    kind = " (a transfer number)" if cell.get("published_attacker") == "transfer" else ""
    return [f"{where}: gradient {cell['published_gradient']}{kind}, {stated}"]


def _doubts(cell: Mapping[str, Any]) -> str:
    return f"{cell.get('published_confidence')} {cell.get('published_notes')}"


def published_clean(cell: Mapping[str, Any], notes: Notes) -> Entry:
    """The literature's accuracy without an attack."""
    value = cell.get("published_clean")
    return Entry() if absent(value) else Entry(percent_text(value))


def _plain(column: str) -> Callable[[Mapping[str, Any], Notes], Entry]:
    return lambda cell, notes: Entry(percent_text(cell.get(column)))


def _named(column: str) -> Callable[[Mapping[str, Any], Notes], Entry]:
    return lambda cell, notes: Entry(label_of(cell, column)) if cell else Entry()


NAMED = ("attack", "gradient", "num_images")
"""Columns that a table may show as values, where they tell apart what shares a row."""

VALUES: dict[str, tuple[str, Callable[[Mapping[str, Any], Notes], Entry]]] = {
    **{name: (COLUMN_TITLES[name], _named(name)) for name in NAMED},
    "clean": ("Clean", _plain("clean_accuracy")),
    "robust": ("Robust", robust),
    "null": ("Null", _plain("null_accuracy")),
    "vote": ("Vote", _plain("vote_accuracy")),
    "worst": ("Worst", _plain("worst_accuracy")),
    "first_success": ("First", _plain("first_success_accuracy")),
    "null_first_success": ("First, null", _plain("null_first_success_accuracy")),
    "published_clean": ("Publ. clean", published_clean),
    "published": ("Published", published),
}
"""What a table may show of a cell: name -> (heading, entry)."""
