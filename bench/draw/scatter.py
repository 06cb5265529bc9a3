"""Measured beside published: one mark a pair of numbers, and the diagonal on which they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.draw.style import GREY, MARKERS, WIDTHS, Form, clean_text, line_style, new_figure, styled, write


@dataclass(frozen=True)
class Mark:
    """One pair of numbers.

    Attributes:
        x: published, percent.
        y: measured, percent.
        low: lower end of the measured one's interval; None without one.
        high: upper end of it.
        group: what the legend says, such as the source and the verdict.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    group: str


def draw_scatter(
    marks: Sequence[Mark], *, x_label: str, y_label: str, title: str = "", width: str = "column", form: Form = "svg"
) -> bytes:
    """Draw marks with intervals, and the diagonal.

    Args:
        marks: at least one.
        x_label: below the axis.
        y_label: beside the axis.
        title: above.
        width: "column" or "page".
        form: "svg", "png" or "pdf".

    Raises:
        MissingMatplotlib: it is not installed.
    """
    groups = list(dict.fromkeys(mark.group for mark in marks))
    with styled():
        columns = 1 if width == "column" else 2
        height = WIDTHS[width] * (0.95 if width == "column" else 0.7) + 0.15 * -(-len(groups) // columns)
        figure = new_figure(WIDTHS[width], height)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, zorder=1)
        for number, group in enumerate(groups):
            own = [mark for mark in marks if mark.group == group]
            ends = [(max(0.0, m.y - m.low), max(0.0, m.high - m.y)) if m.low is not None and m.high is not None
                    else (0.0, 0.0) for m in own]  # fmt: skip
            style = {**line_style(number), "linestyle": "none", "marker": MARKERS[number % len(MARKERS)]}
            axes.errorbar(
                [m.x for m in own], [m.y for m in own], yerr=list(zip(*ends, strict=True)), capsize=1.5,
                elinewidth=0.7, label=clean_text(group), **style,
            )  # fmt: skip
        axes.set(xlabel=clean_text(x_label), ylabel=clean_text(y_label), title=clean_text(title), xlim=(-2, 102))
        axes.set_ylim(-2, 102)
        figure.legend(loc="outside lower center", ncols=columns)
        return write(figure, form)
