"""Which cells a table of a paper shows, and the published number that each of them repeats there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any

from bench.literature.publish import published_columns, read_published
from bench.literature.verdict import verdict_columns

IDENTITY = (
    "dataset", "classifier", "score", "defense", "defense_params", "attack", "attack_params", "norm", "epsilon",
    "gradient", "tier",
)  # fmt: skip


class Members:
    """The cells of one table, whatever their seed, data seed and number of images."""

    def __init__(self, published: Callable[[], Mapping[str, str | None]]) -> None:
        """Remember what tells them.

        Args:
            published: () -> identity of a cell (see `identify`) -> key of the published number that it repeats here.
        """
        self._tell = published

    @cached_property
    def published(self) -> Mapping[str, str | None]:
        """Identity -> key of the published number that the cell repeats in this table."""
        return self._tell()

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `results` is one of them."""
        return identify(row) in self.published

    def compare(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of the published number and the verdict on a row in this table.

        In another table the same cell may stand for another experiment.

        Args:
            row: of `results`, with the caveat of its defense as `defense_caveat`.
        """
        known = _literature().get(self.published[identify(row)] or "")
        caveat = row.get("defense_caveat") or ""
        judged = verdict_columns(row, known, caveat) if row.get("robust_accuracy") is not None else {}
        return {**published_columns(known), "verdict": None, "verdict_reason": None, **judged}


def identify(row: Mapping[str, Any]) -> str:
    """What tells one experiment from another, as text."""
    noise = row.get("noise") or "fresh"
    return json.dumps([*(row[name] for name in IDENTITY), *([] if noise == "fresh" else [noise])], sort_keys=True)


@cache
def _literature() -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in read_published()}
