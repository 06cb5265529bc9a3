"""Lines with intervals: anything against anything numeric."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.draw.style import GREY, WIDTHS, Form, clean_text, line_style, new_figure, styled, wrap, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.15  # inches of a line of the legend
LETTERS = {"column": 44, "page": 100}  # that fit into a line of the legend
WIDE = 42  # letters of a name beyond which the legend has one column
HOLLOW = "Hollow: in doubt, tables say why."


@dataclass(frozen=True)
class Point:
    """A place of a line.

    Attributes:
        x: where.
        y: how much.
        low: lower end of its interval; None without one.
        high: upper end of it.
        doubted: whether a table marks the number: drawn hollow.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    doubted: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        name: what the legend says.
        points: in the order of x.
        beside: other values at the same places, drawn thin and dotted: such as clean accuracy.
        joined: whether the points differ in x alone; else no line is drawn through them.
    """

    name: str
    points: tuple[Point, ...]
    beside: tuple[tuple[float, float], ...] = ()
    joined: bool = True


def draw_lines(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    remark: str = "",
    percent: bool = True,
    log: bool = False,
    width: str = "column",
    form: Form = "svg",
) -> bytes:
    """Draw lines into a file.

    Args:
        lines: at least one; an empty line is named and not drawn.
        x_label: below the axis.
        y_label: beside the axis.
        title: above.
        remark: small, below the legend.
        percent: whether y runs from 0 to 100.
        log: whether x is logarithmic.
        width: "column" or "page".
        form: "svg", "png" or "pdf".

    Returns:
        The file, with the drawn numbers in its description.

    Raises:
        MissingMatplotlib: it is not installed.
    """
    names = [wrap(line.name, LETTERS[width]) for line in lines]
    columns = 2 if width == "page" and max(map(len, names), default=0) <= WIDE else 1
    doubted = any(point.doubted for line in lines for point in line.points)
    told = wrap(" ".join(filter(None, (remark, HOLLOW if doubted else ""))), LETTERS[width] + 10)
    rows = sum(name.count("\n") + 1 for name in names) / columns + bool(told) * (told.count("\n") + 1)
    with styled():
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(WIDTHS[width], 2.2 + 0.5 * (width == "page") + ROW * rows)
        axes = figure.subplots()
        for number, (line, name) in enumerate(zip(lines, names, strict=True)):
            _draw(axes, line, name, line_style(number))
        if not any(line.points for line in lines):
            axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=GREY)
        axes.set(xlabel=clean_text(x_label), ylabel=clean_text(y_label), title=clean_text(title))
        if percent:
            axes.set_ylim(-2, 102)
            axes.set_yticks(range(0, 101, 20))
        if all(point.x == int(point.x) for line in lines for point in line.points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda *_: "")
        _add_legend(figure, axes, columns, told)
        return write(figure, form, describe(lines))


def describe(lines: Sequence[Line]) -> str:
    """The numbers of the lines as JSON, to six significant digits."""

    def shown(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    told: list[dict[str, Any]] = []
    for line in lines:
        points = [[shown(value) for value in (p.x, p.y, p.low, p.high)] for p in line.points]
        told.append({"line": line.name, "x y low high": points, "beside": [[shown(v) for v in b] for b in line.beside]})
        if doubted := [shown(p.x) for p in line.points if p.doubted]:
            told[-1]["in doubt at x"] = doubted
    return json.dumps(told, ensure_ascii=True)


def _draw(axes: Axes, line: Line, name: str, style: dict[str, Any]) -> None:
    xs, ys = [p.x for p in line.points], [p.y for p in line.points]
    ends = [(p.y - p.low, p.high - p.y) if p.low is not None and p.high is not None else (0, 0) for p in line.points]
    if not line.joined:
        style = {**style, "linestyle": "none"}
    bars = [[max(0.0, below) for below, _ in ends], [max(0.0, above) for _, above in ends]]
    axes.errorbar(xs, ys, yerr=bars if xs else None, label=name, capsize=1.8, elinewidth=0.8, **style)
    if doubted := [(p.x, p.y) for p in line.points if p.doubted]:
        hollow = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markerfacecolor": "white"}
        axes.plot(*zip(*doubted, strict=True), zorder=3, **hollow)
    if line.beside:
        x, y = zip(*line.beside, strict=True)
        axes.plot(x, y, color=style["color"], marker=style["marker"], linestyle=":", linewidth=0.8, markersize=2)


def _add_legend(figure: Figure, axes: Axes, columns: int, remark: str) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names and (len(names) > 1 or names[0]) or remark:
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=3.2)
        if remark:
            legend.set_title(remark)
            legend.get_title().set_fontsize(6.5)
            legend.set_alignment("left")
