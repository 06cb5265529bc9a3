"""How numbers and names are written in every format."""

from __future__ import annotations

from typing import Any

from bench.epsilon import epsilon_text

DASH = "–"
COLUMN_TITLES = {
    "defense": "Defense",
    "gradient": "Gradient",
    "attack": "Attack",
    "classifier": "Classifier",
    "dataset": "Data set",
    "score": "Score network",
    "tier": "Tier",
    "attack_precision": "Precision",
    "num_images": "Images",
    "norm": "Norm",
    "epsilon": "Epsilon",
    "draws": "Draws",
}


def absent(value: Any) -> bool:
    """Whether a field of a frame is empty (None or NaN)."""
    return value is None or value != value


def percent_text(value: float | None) -> str:
    """A percentage to one decimal, or a dash."""
    return DASH if value is None or absent(value) else f"{value:.1f}"


def interval_text(low: float | None, high: float | None) -> str:
    """An interval in percent as "[low, high]", or nothing where an end is unknown."""
    return "" if absent(low) or absent(high) else f"[{low:.1f}, {high:.1f}]"


def name_text(column: str, value: Any) -> str:
    """A field of a cell as a row or column label."""
    if column == "epsilon":
        return epsilon_text(value)
    if absent(value):
        return DASH
    return str(int(value)) if column in ("num_images", "draws", "seed", "data_seed") else str(value)
