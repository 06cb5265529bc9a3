"""Convergence curves and votes as the database keeps them: in few characters, since they are most of what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil, isfinite
from typing import Any

from bench.records import ROUNDED, VOTES

SHARED = ("attack", "images")
POINTS = 16  # of one attack: of a longer run every second, third, ... step is kept, and the last
DIGITS = 4  # significant ones of a loss or an accuracy: a curve is looked at, and judges no image


def pack(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store a curve by column: neighbours of one attack and number of images become one entry, with lists in it.

    NaN and infinity become None, since JSON has no words for them. Migrations use this: a change of the form is another
    one.

    Args:
        curve: one {attack, step, loss, accuracy, images} for each step.

    Returns:
        Entries {attack, images, step: [...], loss: [...], accuracy: [...]}, with four significant digits and at most
        `POINTS` steps; `step` is the first alone where each follows the one before.
    """
    pieces = []
    for _, points in groupby(curve, key=_describe_piece):
        steps = list(points)
        if len(steps) > POINTS:
            steps = [*steps[: -1 : ceil((len(steps) - 1) / (POINTS - 1))], steps[-1]]
        piece = {name: [_round(step[name]) for step in steps] for name in steps[0] if name not in SHARED}
        first = piece["step"][0]
        if piece["step"] == list(range(first, first + len(steps))):
            piece["step"] = first
        pieces.append({name: steps[0][name] for name in SHARED if name in steps[0]} | piece)
    return pieces


def unpack(pieces: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Undo `pack`, but for the digits and steps that it dropped."""
    curve = []
    for piece in pieces:
        count = max(len(value) for value in piece.values() if isinstance(value, list))
        steps = piece["step"] if isinstance(piece["step"], list) else range(piece["step"], piece["step"] + count)
        for i, step in enumerate(steps):
            point = {name: value[i] if isinstance(value, list) else value for name, value in piece.items()}
            curve.append({**point, "step": step})
    return curve


def pack_votes(votes: Mapping[int, int]) -> int | dict[str, int]:
    """Votes as JSON: label -> draws, or the label alone where all draws gave it, as most images have it."""
    if len(votes) == 1:
        return int(next(iter(votes)))
    return {str(int(label)): int(count) for label, count in votes.items()}


def pack_rounded(rounded: Mapping[int, int], robust: Mapping[int, int]) -> int | dict[str, int] | None:
    """Votes on the rounded image as JSON: None where they are those on the image itself, as nearly all are.

    Args:
        rounded: label -> draws on the image rounded to 8 bits.
        robust: label -> draws on the adversarial image.
    """
    return None if dict(rounded) == dict(robust) else pack_votes(rounded)


def unpack_row(row: Mapping[str, Any]) -> dict[str, dict[int, int] | None]:
    """All votes of a row of `images`, column -> label -> draws; None of the rounded image where nobody asked.

    Args:
        row: with `draws`, `rounded_correct` and the four columns of votes as they are stored.
    """
    votes = {name: unpack_votes(row[name], row["draws"]) for name in VOTES}
    if row[ROUNDED] is not None:
        return {**votes, ROUNDED: unpack_votes(row[ROUNDED], row["draws"])}
    return {**votes, ROUNDED: None if row["rounded_correct"] is None else votes["robust_votes"]}


def unpack_votes(packed: int | Mapping[str, int], draws: int) -> dict[int, int]:
    """Undo `pack_votes`.

    Args:
        packed: as it is stored.
        draws: judging draws of the image.
    """
    return {packed: draws} if isinstance(packed, int) else {int(label): count for label, count in packed.items()}


def _describe_piece(step: dict[str, Any]) -> tuple[Any, ...]:
    return (*(step.get(name) for name in SHARED), *step)  # the names as well: a piece has one set of columns


def _round(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
