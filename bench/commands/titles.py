"""What tables call data sets, networks, defenses and attacks: their titles, as columns of a frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.attacks.base import attacks
from bench.datasets import dataset_info
from bench.report.labels import field_text
from defenses.base import defenses
from defenses.models.classifiers import classifier_info
from defenses.models.scores import score_info

if TYPE_CHECKING:
    import pandas as pd


def with_titles(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `<column>_title` for data set, classifier, score network, defense and attack.

    For defenses and attacks also `<column>_texts`, each field as a table writes it, and `<column>_always`, the fields
    that a table shows whether they differ or not. What is not registered any more is called by its name.
    """
    if frame.empty:
        return frame
    columns: dict[str, list[Any]] = {}
    for column, look_up in (("dataset", dataset_info), ("classifier", classifier_info), ("score", score_info)):
        if column in frame:
            columns[f"{column}_title"] = [_title(look_up, name) for name in frame[column]]
    for column, registry in (("defense", defenses), ("attack", attacks)):
        classes = [registry.get(name) for name in frame[column]]
        params = frame[f"{column}_params"] if f"{column}_params" in frame else [None] * len(frame)
        columns[f"{column}_title"] = [
            getattr(cls, "title", name) for cls, name in zip(classes, frame[column], strict=True)
        ]
        columns[f"{column}_texts"] = [_field_texts(cls, given) for cls, given in zip(classes, params, strict=True)]
        columns[f"{column}_always"] = [getattr(cls, "always_shown", ()) for cls in classes]
    return frame.assign(**columns)


def describe(defense: Any, fields: tuple[str, ...]) -> str:
    """A defense in words: its title and some of its fields."""
    from bench.report.labels import join_label

    texts = _field_texts(type(defense), defense.params())
    return join_label(defense.title, [texts[name] for name in fields if texts.get(name)])


def _title(look_up: Any, name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    try:
        return getattr(look_up(name), "title", name)
    except (LookupError, OSError, ValueError):  # a network that is gone, or another machine's
        return name


def _field_texts(cls: Any, params: Any) -> dict[str, str]:
    given: Mapping[str, Any] = json.loads(params) if isinstance(params, str) else params or {}
    words = getattr(cls, "words", {})
    return {name: words.get(value) or _value_text(name, value) for name, value in given.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _value_text(name: str, value: Any) -> str:
    known = _title(classifier_info, value) if isinstance(value, str) else value
    return str(known) if known != value else field_text(name, value)
