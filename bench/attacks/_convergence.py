"""What the last doubling of an attack's length won: whether the lengths sufficed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.records import NOT_CONVERGED

BY_LENGTH = "strong: by length"  # of the convergence curve: accuracy on the check draws after each length
POINT = 0.01  # mean gain of a doubling for which a longer one is worth it


def write_convergence(curve: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the last doubling won, as a note of a run; nothing where the attack has no such curve.

    Args:
        curve: points of all batches of the run, as `Trace.curve` gives them.
    """
    right: dict[int, float] = {}
    images: dict[int, int] = {}
    for point in curve:
        if point["attack"] == BY_LENGTH:
            right[point["step"]] = right.get(point["step"], 0.0) + point["accuracy"] * point["images"]
            images[point["step"]] = images.get(point["step"], 0) + point["images"]
    if len(right) < 2:
        return []
    half, whole = sorted(right)[-2:]
    won = 100 * (right[half] / images[half] - right[whole] / images[whole])
    told = f"the last doubling, to at most {whole} steps, won {won:.1f} points on the check draws"
    return [f"Converged: {told}." if won < 100 * POINT else f"{NOT_CONVERGED}{told}: longer runs would find more."]
