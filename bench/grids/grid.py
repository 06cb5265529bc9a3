"""What a grid is: the cells of one experiment, and how to show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.cell import Cell
    from bench.report import Curve, Table


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One experiment. A grid's file holds `GRID = Grid(...)`, or a function `cells()` alone.

    Attributes:
        title: heading of its tables.
        cells: () -> the cells to run, in order. It may take `protocol`: "paper", "strong", "gold", "both", "quick".
        caption: sentence below the heading of a grid without `tables`.
        tables: its layouts; without them, one table a data set and threat.
        curve: what `bench report --format svg` draws; None where there is nothing to draw.
        gates: names of attacks whose quick cells get validity gates too.
        quick_note: sentence added to every caption where only cells of the quick tier are shown.
        about: its description; `load_grid` takes the file's docstring where this is empty.
    """

    title: str
    cells: Callable[..., Iterable[Cell]]
    caption: str = ""
    tables: tuple[Table, ...] = ()
    curve: Curve | None = None
    gates: tuple[str, ...] = ()
    quick_note: str = ""
    about: str = ""

    @property
    def has_protocols(self) -> bool:
        """Whether `cells` can be asked for one protocol."""
        return "protocol" in inspect.signature(self.cells).parameters
