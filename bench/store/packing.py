"""Convergence curves as the database keeps them: by column, since their text is most of what a run stores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import Any

SHARED = ("attack", "images")
DIGITS = 6  # significant ones of a loss or an accuracy: a curve is looked at, never judged


def pack(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store a curve by column: neighbours of one attack and number of images become one entry, with lists in it.

    NaN and infinity become None, since JSON has no words for them. Migration m002 uses this: a change of the form is
    another migration.

    Args:
        curve: one {attack, step, loss, accuracy, images} for each step.

    Returns:
        Entries {attack, images, step: [...], loss: [...], accuracy: [...]}, with six significant digits.
    """
    pieces = []
    for _, points in groupby(curve, key=_describe_piece):
        steps = list(points)
        lists = {name: [_round(step[name]) for step in steps] for name in steps[0] if name not in SHARED}
        pieces.append({name: steps[0][name] for name in SHARED if name in steps[0]} | lists)
    return pieces


def unpack(pieces: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Undo `pack`, but for the digits that it dropped."""
    return [
        {name: value[i] if isinstance(value, list) else value for name, value in piece.items()}
        for piece in pieces
        for i in range(len(piece["step"]))
    ]


def _describe_piece(step: dict[str, Any]) -> tuple[Any, ...]:
    return (*(step.get(name) for name in SHARED), *step)  # the names as well: a piece has one set of columns


def _round(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
