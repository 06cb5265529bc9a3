"""Bars: how many images got how many right draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.draw.style import COLOURS, WIDTHS, Form, clean_text, new_figure, styled, write

HATCHES = ("", "////", "....", "xx")


def draw_bars(
    series: Mapping[str, Sequence[int]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    width: str = "column",
    form: Form = "svg",
) -> bytes:
    """Draw groups of bars, one group at 0, 1, 2 and so on.

    Args:
        series: name -> heights.
        x_label: below the axis.
        y_label: beside the axis.
        title: above.
        width: "column" or "page".
        form: "svg", "png" or "pdf".

    Raises:
        MissingMatplotlib: it is not installed.
    """
    with styled():
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(WIDTHS[width], 2.3)
        axes = figure.subplots()
        room = 0.8 / max(1, len(series))
        for number, (name, heights) in enumerate(series.items()):
            places = [place - 0.4 + room * (number + 0.5) for place in range(len(heights))]
            axes.bar(
                places, heights, room, label=clean_text(name), color=COLOURS[number % len(COLOURS)],
                hatch=HATCHES[number % len(HATCHES)], edgecolor="white", linewidth=0.3,
            )  # fmt: skip
        axes.grid(False, axis="x")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=clean_text(x_label), ylabel=clean_text(y_label), title=clean_text(title))
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=min(3, len(series)))
        return write(figure, form)
