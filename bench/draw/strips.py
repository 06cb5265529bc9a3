"""Strips: rows of small pictures with a line of text under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.draw.style import WIDTHS, Form, clean_text, new_figure, styled, wrap, write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = 1.3  # inches of a tile
RIGHT, WRONG = "#000000", "#b34700"
LETTERS = {"column": 66, "page": 120}  # in a line of the remark


@dataclass(frozen=True)
class Tile:
    """One picture of a strip.

    Attributes:
        image: (channels, height, width) in [0, 1], one or three channels; None leaves the place empty.
        text: under the picture.
        wrong: whether the text names a wrong answer: it is coloured then, and bold.
    """

    image: NDArray[np.float32] | None = field(repr=False)
    text: str = ""
    wrong: bool = False


def draw_strip(
    rows: Sequence[Sequence[Tile]],
    heads: Sequence[str],
    *,
    title: str = "",
    remark: str = "",
    width: str = "page",
    form: Form = "png",
) -> bytes:
    """Draw rows of pictures.

    Args:
        rows: of equally many tiles.
        heads: above the columns.
        title: above all.
        remark: below all.
        width: "column" or "page".
        form: "svg", "png" or "pdf".

    Raises:
        MissingMatplotlib: it is not installed.
    """
    columns = len(heads)
    size = min(WIDTHS[width], LARGEST * columns)
    letters = int(LETTERS[width] * size / WIDTHS[width])  # a strip of few columns is narrower than the page
    told, above = wrap(remark, letters), wrap(title, letters * 9 // 10)
    with styled():
        tile = size / columns
        font = min(7.0, 3.2 + 3.4 * tile)
        lines = told.count("\n") + 1 + above.count("\n") + 1
        figure = new_figure(size, len(rows) * (tile + 0.16) + 0.2 + 0.14 * lines)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for row, places in zip(rows, grid, strict=True):
            for shown, axes in zip(row, places, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if shown.image is not None:
                    picture = shown.image.transpose(1, 2, 0)
                    grey = picture.shape[2] == 1
                    axes.imshow(
                        picture[:, :, 0] if grey else picture.clip(0, 1), cmap="gray" if grey else None, vmin=0, vmax=1,
                        interpolation="nearest",
                    )  # fmt: skip
                axes.set_xlabel(
                    clean_text(shown.text), fontsize=font, labelpad=1.5, color=WRONG if shown.wrong else RIGHT,
                    fontweight="bold" if shown.wrong else "normal",
                )  # fmt: skip
        for head, axes in zip(heads, grid[0], strict=True):
            axes.set_title(clean_text(head), fontsize=font, pad=2.5)
        if above:
            figure.suptitle(above, fontsize=font + 1)
        if told:
            figure.supxlabel(told, fontsize=min(6.5, font + 0.5))
        return write(figure, form)
