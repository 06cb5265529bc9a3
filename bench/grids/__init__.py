"""Grids: one experiment, one file. `cells()` says what to run; `tables(frame)`, where there is one, how to show it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from defenses.registry import unknown_name

if TYPE_CHECKING:
    from bench.cell import Cell


def grid_names() -> list[str]:
    """Names of the grids that ship with the package."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_grid(name: str) -> ModuleType:
    """The module of a grid: a name of `grid_names`, or the path of a Python file, which may define defenses too.

    Raises LookupError for an unknown name or a file without `cells`.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in grid_names():
        raise unknown_name("grid", name, grid_names())
    return importlib.import_module(f"{__name__}.{name}")


def grid_label(name: str) -> str:
    """How a grid is called in the database: its name, or its file's stem."""
    return Path(name).stem if name.endswith(".py") else name


def grid_cells(name: str, protocol: str | None = None) -> list[Cell]:
    """The cells of a grid, each once, in the grid's order.

    protocol: "paper", "gold" or "both", for a grid whose `cells` takes it; ValueError for another grid.
    """
    cells = load_grid(name).cells
    if protocol is not None and "protocol" not in inspect.signature(cells).parameters:
        raise ValueError(f"The grid {name} has one protocol only. Leave --protocol out.")
    chosen = cells() if protocol is None else cells(protocol=protocol)
    return list({cell.key: cell for cell in chosen}.values())


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LookupError(f"There is no grid file {path}. Known grids: {', '.join(grid_names())}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if not hasattr(module, "cells"):
        raise LookupError(f"Expected a function `cells()` in {path}, found none. It yields the cells to run.")
    return module
