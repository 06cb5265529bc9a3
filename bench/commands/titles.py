"""What tables call data sets, networks, defenses and attacks: their titles, as columns of a frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.commands.names import KINDS, Entry, LiveNames, Names
from bench.report.labels import field_text, join_label

if TYPE_CHECKING:
    import pandas as pd


def with_titles(frame: pd.DataFrame, names: Names | None = None) -> pd.DataFrame:
    """The frame with `<column>_title` for data set, classifier, score network, defense and attack.

    For defenses and attacks also `<column>_texts`, each field as a table writes it, and `<column>_always`, the fields
    that a table shows whether they differ or not; for defenses `defense_caveat`. What is known nowhere is called by
    its name.

    Args:
        frame: rows of `results`.
        names: where the names are looked up; None is the registries.
    """
    if frame.empty:
        return frame
    known = names or LiveNames()
    entry, title_of = cache(known.entry), cache(lambda name: known.entry("classifier", name)["title"])
    columns: dict[str, list[Any]] = {}
    for column in KINDS:
        if column in frame:
            entries = [entry(column, name) if isinstance(name, str) else None for name in frame[column]]
            columns[f"{column}_title"] = [found["title"] if found else None for found in entries]
            if column in ("defense", "attack"):
                params = frame[f"{column}_params"] if f"{column}_params" in frame else [None] * len(frame)
                columns[f"{column}_texts"] = _write_fields(entries, params, title_of)
                columns[f"{column}_always"] = [tuple(found["always"]) if found else () for found in entries]
            if column == "defense":
                columns["defense_caveat"] = [found["caveat"] if found else "" for found in entries]
    return frame.assign(**columns)


def _write_fields(entries: Sequence[Entry | None], params: Iterable[Any], title_of: Any) -> list[dict[str, str]]:
    """Each field as a table writes it, row by row; rows with equal fields share one dictionary."""
    written: dict[tuple[int, str], dict[str, str]] = {}
    found = []
    for entry, given in zip(entries, params, strict=True):
        place = (id(entry), str(given))
        if place not in written:
            written[place] = _field_texts(entry or {}, given, title_of)
        found.append(written[place])
    return found


def describe(defense: Any, fields: tuple[str, ...]) -> str:
    """A defense in words: its title and some of its fields."""
    names = LiveNames()
    texts = _field_texts(
        names.entry("defense", defense.name), defense.params(), lambda name: names.entry("classifier", name)["title"]
    )
    return join_label(defense.title, [texts[name] for name in fields if texts.get(name)])


def _field_texts(entry: Entry, params: Any, title_of: Any) -> dict[str, str]:
    given: Mapping[str, Any] = json.loads(params) if isinstance(params, str) else params or {}
    words = {value: text for value, text in entry.get("words", ())}
    return {
        name: words.get(value) or _value_text(name, value, title_of)
        for name, value in given.items()
        if _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _value_text(name: str, value: Any, title_of: Any) -> str:
    known = title_of(value) if isinstance(value, str) else value
    return str(known) if known != value else field_text(name, value)
