"""A curve of a grid: accuracy against one parameter of the defense, with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.draw import Line, Point, draw_lines
from bench.report.frames import Result, doubts_of, has_run
from bench.report.labels import label_of
from bench.report.pooling import ImagesOf, pool_seeds


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What to draw.

    Attributes:
        x: a numeric field of the defense.
        x_label: what stands below the axis.
        title: heading.
        series: columns of `results` whose values make a line.
    """

    x: str
    x_label: str
    title: str
    series: Sequence[str] = ("defense", "gradient", "tier")


def svg(curve: Curve, cells: Sequence[Result], images: ImagesOf | None = None) -> str:
    """The curve of the cells that have run: robust accuracy solid, with 95 % bars, clean accuracy dotted.

    Args:
        curve: what to draw.
        cells: results, decoded.
        images: run_id -> its images; see `pool_seeds`.

    Returns:
        An SVG; axes without a line where nothing has run.

    Raises:
        ValueError: no cell has the parameter.
        MissingMatplotlib: it is not installed.
    """
    known = [cell for cell in cells if isinstance((cell.get("defense_params") or {}).get(curve.x), (int, float))]
    if not known:
        raise ValueError(f"Expected cells whose defense has a numeric {curve.x!r}, found none.")
    remark = "With 95 % intervals: robust accuracy. Dotted: clean accuracy."
    return draw_lines(
        _lines(curve, known, images), x_label=curve.x_label, y_label="accuracy, %", title=curve.title, remark=remark,
        width="page",
    ).decode()  # fmt: skip


def _lines(curve: Curve, cells: Sequence[Result], images: ImagesOf | None) -> list[Line]:
    found: dict[str, list[tuple[Point, float]]] = {}
    for cell in pool_seeds(cells, images):
        name = ", ".join(label_of(cell, column) for column in curve.series)
        if has_run(cell):
            ends = (cell["robust_low"], cell["robust_high"])
            at = float(cell["defense_params"][curve.x])
            point = Point(at, cell["robust_accuracy"], *ends, doubted=bool(doubts_of(cell)))
            found.setdefault(name, []).append((point, cell["clean_accuracy"]))
    lines = []
    for name, pairs in found.items():
        ordered = sorted(pairs, key=lambda pair: pair[0].x)
        beside = tuple((point.x, clean) for point, clean in ordered)
        lines.append(Line(name, tuple(point for point, _ in ordered), beside))
    return lines
