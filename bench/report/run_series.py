"""From the images and the steps of single runs to lines, bars and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.draw import Line, Mark, Point
from bench.records import ImageRecord
from bench.report.frames import Result, doubts_of, has_run
from bench.report.numbers import absent
from bench.statistics import worst_of_k


def worst_lines(runs: Mapping[str, Sequence[ImageRecord]]) -> list[Line]:
    """Worst-of-k against k: the share of images that all of k draws get right, in percent.

    Args:
        runs: name -> images.
    """
    lines = []
    for name, records in runs.items():
        most = min(record.draws for record in records)
        rates = [
            sum(worst_of_k(record.robust_correct, record.draws, k) for record in records) / len(records)
            for k in range(1, most + 1)
        ]
        lines.append(Line(name, tuple(Point(k, 100 * rate) for k, rate in enumerate(rates, 1))))
    return lines


def vote_bars(records: Sequence[ImageRecord]) -> dict[str, list[int]]:
    """How many images have 0, 1, 2 ... right draws, clean and attacked."""
    most = max(record.draws for record in records)
    counts = {name: [0] * (most + 1) for name in ("clean", "attacked")}
    for record in records:
        counts["clean"][record.clean_correct] += 1
        counts["attacked"][record.robust_correct] += 1
    return counts


def convergence_lines(runs: Mapping[str, Sequence[Mapping[str, Any]]], y: str) -> list[Line]:
    """Loss or accuracy of an attack by its steps, averaged over the batches; a line for each of its members.

    Args:
        runs: name -> steps, `{attack, step, loss, accuracy, images}`; accuracy in [0, 1].
        y: "accuracy" or "loss".
    """
    lines = []
    for name, steps in runs.items():
        members = list(dict.fromkeys(step["attack"] for step in steps))
        for member in members:
            sums: dict[int, list[float]] = {}
            for step in steps:
                if step["attack"] == member and step[y] is not None:
                    entry = sums.setdefault(step["step"], [0.0, 0.0])
                    entry[0] += step[y] * step["images"]
                    entry[1] += step["images"]
            factor = 100.0 if y == "accuracy" else 1.0
            points = tuple(Point(step, factor * total / n) for step, (total, n) in sorted(sums.items()))
            lines.append(Line(f"{name}, {member}" if len(members) > 1 else name, points))
    return lines


def published_marks(cells: Sequence[Result]) -> list[Mark]:
    """Measured beside published, for every cell that names a published number."""
    return [
        Mark(
            cell["published_robust"],
            cell["robust_accuracy"],
            cell.get("robust_low"),
            cell.get("robust_high"),
            group=f"{cell.get('published_source')}: {cell.get('verdict') or 'no verdict'}"
            + (", in doubt" if doubts_of(cell) else ""),
        )
        for cell in cells
        if has_run(cell) and not absent(cell.get("published_robust"))
    ]
