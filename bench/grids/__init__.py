"""Grids: one experiment, one file. `load_grid` finds one by name or by path."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bench.grids.config import load_config
from bench.grids.grid import Grid
from defenses.plain_data import name_type
from defenses.plugins import welcome
from defenses.registry import ModuleRegistry
from defenses.user_error import UserFileError as GridFileError
from defenses.user_error import told_with_its_line
from defenses.user_file import load_file

if TYPE_CHECKING:
    from bench.cell import Cell

__all__ = ["GRIDS", "Grid", "GridFileError", "grid_cells", "grid_label", "grid_names", "load_grid"]


def grid_names() -> list[str]:
    """Names of the grids that ship with the package: its modules that hold a `GRID`."""
    return list(GRIDS)


def load_grid(name: str) -> Grid:
    """The grid of a name or of a file.

    Args:
        name: one of `grid_names`, or the path of a file: a Python file that ends in .py, which may define defenses and
            attacks too, or one that ends in .toml.

    Raises:
        LookupError: an unknown name, no such file, or a file that holds neither `GRID` nor `cells`.
        GridFileError: the file cannot be run.
    """
    if name.endswith(".toml"):
        return load_config(Path(name).expanduser())
    if name.endswith(".py"):
        return _grid_of(_load_file(Path(name)), name)
    return GRIDS[name]


def is_file(name: str) -> bool:
    """Whether a grid's name is the path of a file."""
    return name.endswith((".py", ".toml"))


def grid_label(name: str) -> str:
    """How the database calls a grid: its name, or its file's stem."""
    return Path(name).stem if is_file(name) else name


def grid_cells(name: str, protocol: str | None = None) -> list[Cell]:
    """The cells of a grid, each once, in the grid's order.

    Args:
        name: as for `load_grid`.
        protocol: "paper", "strong", "gold", "both" or "quick", for a grid that has protocols; None is its default.

    Raises:
        ValueError: a protocol for a grid that has one only.
        GridFileError: a mistake in a user's file, with its line.
    """
    grid = load_grid(name)
    if protocol is not None and not grid.has_protocols:
        raise ValueError(f"The grid {name} has one protocol only. Leave --protocol out.")
    with told_with_its_line(Path(name)) if name.endswith(".py") else nullcontext():
        chosen = grid.cells() if protocol is None else grid.cells(protocol=protocol)
        return list({cell.key: cell for cell in _check_cells(chosen)}.values())


def _check_cells(chosen: object) -> Iterator[Cell]:
    """What a function `cells()` gave, one by one; ValueError for what is no cell."""
    from bench.cell import Cell

    if not isinstance(chosen, Iterable):
        found = "nothing" if chosen is None else name_type(chosen)
        raise ValueError(f"Expected cells() to yield cells, found {found}. Write `yield Cell(...)`.")
    for number, cell in enumerate(chosen):
        if not isinstance(cell, Cell):
            raise ValueError(
                f"Expected cells() to yield Cell(...) only, found {cell!r} at place {number}. Write `yield Cell(...)`."
            )
        yield cell


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


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LookupError(f"There is no grid file {path}. Known grids: {', '.join(grid_names())}.")
    return load_file(path)


GRIDS: ModuleRegistry[Grid] = ModuleRegistry(
    "grid",
    __name__,
    lambda module: _grid_of(module, module.__name__.rpartition(".")[2]),
    besides=("grid", "described", "config", "toml_values"),
)


def _adopt(name: str, found: object) -> None:
    if isinstance(found, Grid):
        grid = found
    elif callable(found):
        grid = Grid(title=name, cells=found, about=inspect.getdoc(found) or "")
    else:
        grid = _grid_of(found, name)  # type: ignore[arg-type]
    GRIDS.add(name, grid)


welcome(GRIDS, "grids", _adopt)
