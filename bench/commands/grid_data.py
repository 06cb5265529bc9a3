"""Grids as plain data: those that ship in a generated file, checked against the sources' hash; others in the database.

`python -m bench.commands.catalog` writes the file again. Where nothing valid is written down, the grid itself is
loaded, which imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.names import Names, StoredNames, gather_names
from bench.commands.sources import sources_hash
from bench.grids import Grid, grid_label, grid_names, load_grid
from bench.grids.described import DEFAULT, PROTOCOLS, DescribedGrid, describe_grid, hash_file, read_grid
from bench.planned import PlannedCell
from bench.store import Store
from defenses.registry import unknown_name

if TYPE_CHECKING:
    from bench.cell import Cell

FILE = Path(__file__).with_name("grids.json")
RAN = "ran"  # beside the protocols: what the last `bench run` of the grid chose


def find_grid(name: str, store: Store | None = None) -> DescribedGrid:
    """A grid as data, from wherever it is written down and still true; else from its own file.

    Args:
        name: a shipped grid, or the path of a file.
        store: where a file's description may lie.

    Raises:
        LookupError: there is no such grid.
        GridFileError: its file cannot be run.
    """
    if not name.endswith((".py", ".toml")):
        if name not in grid_names():
            raise unknown_name("grid", name, grid_names())
        if name in shipped():
            return read_grid(shipped()[name])
    elif store is not None and Path(name).is_file():
        stored = store.grid(grid_label(name))
        if stored and stored["described"] and stored["digest"] == hash_file(Path(name)):
            return read_grid(stored["described"])
    return _load(name)


def stored_grid(store: Store, label: str) -> DescribedGrid | None:
    """The grid as it was when it ran last, with its cells of then under the protocol `RAN`; None where none is known.

    The tables of a shipped grid are those of today.
    """
    stored = store.grid(label)
    described = stored["described"] if stored else None
    found = read_grid(described) if described else None
    if label not in grid_names() or (stored and stored["source"].endswith(".py")):
        return found
    known = find_grid(label)
    return replace(known, protocols={**known.protocols, **found.protocols}) if found else known


def find_names(store: Store) -> Names:
    """What all grids that are written down call things."""
    stored = (row["described"]["names"] for row in store.grids() if row["described"])
    return StoredNames([*(entry["names"] for entry in shipped().values()), *stored])


def join_names(grid: DescribedGrid, others: Names) -> Names:
    """What a grid calls things, and what others call those that it does not name."""
    return StoredNames([grid.names], others)


def choose_shown(grid: DescribedGrid, measured: Collection[str]) -> list[PlannedCell]:
    """The cells that stand for a grid: all of its own where one of them ran, and those that ran last with other
    options; an empty list where none of these is known.

    Args:
        grid: with its cells of then under the protocol `RAN`.
        measured: keys of the cells that the database has of it.
    """
    own = grid.cells()
    ran = grid.cells(RAN) if RAN in grid.protocols else []
    known = {cell.key for cell in ran} or set(measured)
    found = {cell.key: cell for cell in own} if any(cell.key in known for cell in own) else {}
    return list((found | {cell.key: cell for cell in ran}).values())


def describe(name: str, ran: Sequence[PlannedCell] = ()) -> Any:
    """A grid as JSON, from its own file; None where no data describe its tables.

    Args:
        name: a shipped grid, or the path of a file.
        ran: cells that are run now, where they are to be written down too.
    """
    grid = load_grid(name)
    protocols = {**_plan(name, grid), **({RAN: list(ran)} if ran else {})}
    return describe_grid(grid, protocols, gather_names(cell for cells in protocols.values() for cell in cells))


def remember(store: Store, name: str, cells: Sequence[Cell]) -> None:
    """Write down in the database which cells of a grid run now, and what the tables of a file's grid look like."""
    is_file = name.endswith(".py")
    try:
        planned = [cell.planned() for cell in cells]
        ran = describe_grid(replace(load_grid(name), tables=()), {RAN: planned}, gather_names(planned))
        described = describe(name, planned) if is_file else ran
        digest = hash_file(Path(name)) if is_file else sources_hash()
    except Exception:  # whatever a user's file does here: the cells are run, and their report loads the file
        described, digest = None, ""
    store.save_grid(grid_label(name), source=name, digest=digest, described=described)


def _load(name: str) -> DescribedGrid:
    """The grid from its own file; its tables as they are."""
    grid = load_grid(name)
    cells = _plan(name, grid)
    names = gather_names(cell for found in cells.values() for cell in found)
    return replace(read_grid(describe_grid(replace(grid, tables=()), cells, names)), tables=grid.tables)


def _plan(name: str, grid: Grid) -> dict[str, list[PlannedCell]]:
    """Protocol -> cells."""
    from bench.grids import grid_cells

    protocols = {DEFAULT: [cell.planned() for cell in grid_cells(name)]}
    for protocol in PROTOCOLS if grid.has_protocols else ():
        try:
            protocols[protocol] = [cell.planned() for cell in grid_cells(name, protocol)]
        except ValueError:  # it has not all of them
            continue
    return protocols


@cache
def shipped() -> Mapping[str, Any]:
    """Name of a shipped grid -> its description; empty where the file is older than the sources."""
    try:
        stored = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored["grids"] if stored.get("sources") == sources_hash() else {}


def refresh(names: Iterable[str] | None = None) -> None:
    """Write the file of the shipped grids again, an entry a line."""
    found = [f"{json.dumps(name)}: {_write(describe(name))}" for name in (grid_names() if names is None else names)]
    FILE.write_text(f'{{"sources": "{sources_hash()}", "grids": {{\n' + ",\n".join(found) + "\n}}\n", encoding="utf-8")
    shipped.cache_clear()


def _write(described: Mapping[str, Any]) -> str:
    return json.dumps(described, separators=(",", ":")).replace('},{"row"', '},\n{"row"')
