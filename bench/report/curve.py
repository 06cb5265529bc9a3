"""A curve as a small SVG: accuracy against one parameter of the defense, with its intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from bench.report.frames import Result, has_run
from bench.report.labels import label_of
from bench.report.pooling import pool_seeds

WIDTH, HEIGHT = 780, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 290, 44, 52  # margins; the right one holds the names of the lines
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
LINE = 16  # pixels between names


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


@dataclass(frozen=True)
class _Point:
    x: float
    clean: float
    robust: float
    low: float
    high: float


def svg(curve: Curve, cells: Sequence[Result]) -> str:
    """The curve of the cells that have run: robust accuracy solid, with 95 % bars, clean accuracy dashed.

    Axes without a line where nothing has run. Raises ValueError where no cell has the parameter.
    """
    known = [cell for cell in cells if isinstance((cell.get("defense_params") or {}).get(curve.x), (int, float))]
    if not known:
        raise ValueError(f"Expected cells whose defense has a numeric {curve.x!r}, found none.")
    places = sorted({float(cell["defense_params"][curve.x]) for cell in known})
    lines = _lines(curve, known)
    parts = [*_axes(curve, places), *([] if lines else [_text(_x(places, places[0]) + 12, TOP + 20, "not run")])]
    names = _spread({name: points[-1].robust for name, points in lines.items()})
    for (name, points), colour in zip(lines.items(), COLOURS * (1 + len(lines) // len(COLOURS)), strict=False):
        parts += [*_drawn(points, places, colour), _text(WIDTH - RIGHT + 10, names[name] + 4, name, fill=colour)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(curve.title)}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _lines(curve: Curve, cells: Sequence[Result]) -> dict[str, list[_Point]]:
    lines: dict[str, list[_Point]] = {}
    for cell in pool_seeds(cells):
        if has_run(cell):
            name = ", ".join(label_of(cell, column) for column in curve.series)
            values = (cell[name] for name in ("clean_accuracy", "robust_accuracy", "robust_low", "robust_high"))
            lines.setdefault(name, []).append(_Point(float(cell["defense_params"][curve.x]), *values))
    return {name: sorted(points, key=lambda point: point.x) for name, points in lines.items()}


def _x(places: Sequence[float], x: float) -> float:
    """Pixel of a parameter: linear, with the outermost a little inside the frame."""
    span = (places[-1] - places[0]) or 1.0
    return LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * (x - places[0]) / span


def _y(percent: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - percent / 100)


def _text(x: float, y: float, text: str, **attributes: str) -> str:
    named = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(text)}</text>'


def _stroke(points: Sequence[tuple[float, float]], colour: str, *, dash: str = "", width: float = 1.0) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _axes(curve: Curve, places: Sequence[float]) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield _text(LEFT, 22, curve.title, font_size="14", font_weight="bold")
    for percent in range(0, 101, 20):
        yield _stroke([(LEFT, _y(percent)), (right, _y(percent))], "#ddd")
        yield _text(LEFT - 8, _y(percent) + 4, str(percent), text_anchor="end")
    for place in places:
        yield _text(_x(places, place), bottom + 18, f"{place:g}", text_anchor="middle")
    yield _stroke([(LEFT, TOP), (LEFT, bottom), (right, bottom)], "black")
    yield _text((LEFT + right) / 2, HEIGHT - 12, curve.x_label, text_anchor="middle")
    middle = (TOP + bottom) / 2
    yield _text(16, middle, "accuracy, %", text_anchor="middle", transform=f"rotate(-90 16 {middle:.0f})")
    yield _text(right + 10, TOP - 8, "solid: robust, dashed: clean", fill="#555")


def _drawn(points: Sequence[_Point], places: Sequence[float], colour: str) -> Iterator[str]:
    at = [_x(places, point.x) for point in points]
    yield _stroke([(x, _y(point.clean)) for x, point in zip(at, points, strict=True)], colour, dash="4 3")
    yield _stroke([(x, _y(point.robust)) for x, point in zip(at, points, strict=True)], colour, width=2)
    for x, point in zip(at, points, strict=True):
        yield _stroke([(x, _y(point.low)), (x, _y(point.high))], colour)
        yield f'<circle cx="{x:.1f}" cy="{_y(point.robust):.1f}" r="3" fill="{colour}"/>'


def _spread(ends: dict[str, float]) -> dict[str, float]:
    """Pixel heights for the names beside the lines' ends, from the top down, none over another."""
    order = sorted(ends, key=lambda name: -ends[name])
    heights = [_y(ends[name]) for name in order]
    for above, below in pairwise(range(len(heights))):
        heights[below] = max(heights[below], heights[above] + LINE)
    return dict(zip(order, heights, strict=True))
