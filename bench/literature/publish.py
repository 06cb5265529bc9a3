"""The literature: the rows of bench/published.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.epsilon import parse_epsilon

CSV = Path(__file__).parents[1] / "published.csv"
NUMBERS: dict[str, Callable[[str], Any]] = {
    "year": int,
    "n_images": int,
    "attack_steps": int,
    "attack_eot": int,
    **dict.fromkeys(("standard_acc", "standard_std", "robust_acc", "robust_std"), float),
}
RENAMED = {"table": "source_table"}  # `table` is a word of SQL


LITERATURE = {
    "published_clean": "standard_acc",
    "published_robust": "robust_acc",
    "published_source": "source_key",
    "published_table": "source_table",
    "published_gradient": "gradient_access",
    "published_attacker": "attacker_gradient",
    "published_images": "n_images",
    "published_confidence": "confidence",
    "published_notes": "notes",
}
"""Column of a report's frame -> column of the table `published`."""


def published_columns(known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns of `LITERATURE` for a row of the table `published`; all None without one."""
    return {column: (known or {}).get(name) for column, name in LITERATURE.items()}


def read_published(path: Path = CSV) -> list[dict[str, Any]]:
    """Read the csv as rows of the table `published`; empty fields are None, `epsilon` is `eps` as a number."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_read_row(line) for line in csv.DictReader(file)]


def _read_row(line: dict[str, str]) -> dict[str, Any]:
    row = {RENAMED.get(name, name): NUMBERS.get(name, str)(value) if value else None for name, value in line.items()}
    return {**row, "epsilon": parse_epsilon(line["eps"])}
