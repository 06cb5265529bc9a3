"""Grids: one experiment, one file. `load_grid` finds one by name or by path."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bench.grids.grid import Grid
from defenses.registry import ModuleRegistry

if TYPE_CHECKING:
    from bench.cell import Cell

__all__ = ["GRIDS", "Grid", "grid_cells", "grid_label", "grid_names", "load_file", "load_grid"]


def grid_names() -> list[str]:
    """Names of the grids that ship with the package: its modules that hold a `GRID`."""
    return list(GRIDS)


def load_grid(name: str) -> Grid:
    """The grid of a name or of a file.

    Args:
        name: one of `grid_names`, or the path of a Python file that ends in .py. The file may define defenses and
            attacks too.

    Raises:
        LookupError: an unknown name, no such file, or a file that holds neither `GRID` nor `cells`.
    """
    if name.endswith(".py"):
        return _grid_of(load_file(Path(name)), name)
    return GRIDS[name]


def grid_label(name: str) -> str:
    """How the database calls a grid: its name, or its file's stem."""
    return Path(name).stem if name.endswith(".py") else name


def grid_cells(name: str, protocol: str | None = None) -> list[Cell]:
    """The cells of a grid, each once, in the grid's order.

    Args:
        name: as for `load_grid`.
        protocol: "paper", "gold", "both" or "quick", for a grid that has protocols; None is the grid's default.

    Raises:
        ValueError: a protocol for a grid that has one only.
    """
    grid = load_grid(name)
    if protocol is not None and not grid.has_protocols:
        raise ValueError(f"The grid {name} has one protocol only. Leave --protocol out.")
    chosen = grid.cells() if protocol is None else grid.cells(protocol=protocol)
    return list({cell.key: cell for cell in chosen}.values())


def _grid_of(module: ModuleType, name: str) -> Grid:
    found = getattr(module, "GRID", None)
    cells = getattr(module, "cells", None)
    if found is None and callable(cells):
        found = Grid(title=grid_label(name), cells=cells)
    if not isinstance(found, Grid):
        raise LookupError(
            f"Expected `GRID = Grid(...)` or a function `cells()` in {name}, found none. See docs/adding-a-grid.md."
        )
    return found if found.about else replace(found, about=inspect.getdoc(module) or "")


def load_file(path: Path) -> ModuleType:
    """The module of a user's file, run once for each state of the file: what it registers is registered once.

    Raises:
        LookupError: there is no such file.
    """
    if not path.is_file():
        raise LookupError(f"There is no grid file {path}. Known grids: {', '.join(grid_names())}.")
    status = path.stat()
    return _executed(path.resolve(), status.st_mtime_ns, status.st_size)


@cache
def _executed(path: Path, changed: int, size: int) -> ModuleType:
    """The module of a file, run once for each state of the file: what it registers is then registered once."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


GRIDS: ModuleRegistry[Grid] = ModuleRegistry(
    "grid", __name__, lambda module: _grid_of(module, module.__name__.rpartition(".")[2]), besides=("grid",)
)
