"""Pictures from numbers: curves, bars, strips of images. Knows neither the store nor torch; needs matplotlib."""

from bench.draw.bars import draw_bars
from bench.draw.lines import Line, Point, draw_lines
from bench.draw.scatter import Mark, draw_scatter
from bench.draw.strips import Tile, draw_strip
from bench.draw.style import FORMS, MissingMatplotlib

__all__ = [
    "FORMS",
    "Line",
    "Mark",
    "MissingMatplotlib",
    "Point",
    "Tile",
    "draw_bars",
    "draw_lines",
    "draw_scatter",
    "draw_strip",
]
