"""Figures as plotly draws them in the browser: data and layout, no library needed to make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
DASHES = ("solid", "dash", "dot", "dashdot")


def draw_convergence(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Accuracy on the attacked images against the attack's step, a line for each part of the attack; None without a
    curve.

    Args:
        curve: points {attack, step, accuracy}; accuracy in percent.
    """
    lines: dict[str, list[tuple[int, float]]] = {}
    for point in curve:
        lines.setdefault(str(point["attack"]), []).append((point["step"], point["accuracy"]))
    if not lines:
        return None
    data = [
        {
            "x": [step for step, _ in points], "y": [accuracy for _, accuracy in points], "name": name[:60],
            "mode": "lines+markers" if len(points) < 30 else "lines",
            "line": {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)]},
        }
        for i, (name, points) in enumerate(lines.items())
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "step of the attack"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "accuracy, %"}, "range": [0, 102]},
        "margin": {"l": 50, "r": 10, "t": 10, "b": 45}, "height": 320, "showlegend": len(lines) > 1,
        "legend": {"orientation": "h", "y": -0.25},
    }  # fmt: skip
    return {"data": data, "layout": layout}
