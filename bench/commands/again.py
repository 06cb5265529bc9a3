"""The command line that measures a stored cell again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from bench.commands.grid_data import RAN, find_grid
from bench.grids import grid_names
from bench.grids.described import PROTOCOLS, DescribedGrid
from bench.planned import PlannedCell
from bench.store import Store

PLACES = ("dataset", "classifier", "score", "defense", "attack", "gradient", "epsilon", "tier", "data_seed")


class Commands:
    """Finds the command of each cell of a database; grids are read once."""

    def __init__(self, store: Store, cells: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Remember where the cells come from.

        Args:
            store: the results.
            cells: key -> row of `results`.
            where: the database as the command names it.
        """
        self._store, self._cells, self._where = store, cells, where
        self._sources = {row["name"]: row["source"] for row in store.grids()}
        self._grid, self._names = cache(self._load), grid_names()

    def find(self, key: str) -> str:
        """The command line, or a sentence where no grid that is known here makes the cell."""
        label = self._cells[key].get("grid")
        for name in dict.fromkeys([*([label] if label else []), *self._names]):
            if (options := self._options(str(name), key)) is not None:
                source = self._sources.get(str(name), str(name))
                given = "" if self._where == "results.sqlite" else f" --db {shlex.quote(self._where)}"
                return f"bench run --grid {shlex.quote(source)}{options} --filter key={key} --force{given}"
        return "No grid that is known here makes this cell; what decides it stands below, for a grid file of your own."

    def _options(self, name: str, key: str) -> str | None:
        keys, alike = self._grid(name)
        if key in keys:
            return keys[key]
        cell = self._cells[key]
        changes = {field: cell.get(field) for field in ("num_images", "seed")}
        for option, other in alike.get(_place(cell), ()):
            for chosen in ({"num_images"}, {"seed"}, {"num_images", "seed"}):
                if other.change(**{field: changes[field] for field in chosen}).key == key:
                    words = [f" --{field.replace('_', '-')} {changes[field]}" for field in sorted(chosen)]
                    return option + "".join(words)
        return None

    def _load(self, name: str) -> tuple[dict[str, str], dict[tuple[str, ...], list[tuple[str, PlannedCell]]]]:
        """Key -> options of `bench run`; and the cells by what an option cannot change."""
        keys: dict[str, str] = {}
        alike: dict[tuple[str, ...], list[tuple[str, PlannedCell]]] = {}
        for option, cell in self._cells_of(name):
            if keys.setdefault(cell.key, option) is option:
                alike.setdefault(_place(cell.columns), []).append((option, cell))
        return keys, alike

    def _cells_of(self, name: str) -> Iterator[tuple[str, PlannedCell]]:
        try:
            grid: DescribedGrid = find_grid(self._sources.get(name, name), self._store)
        except (LookupError, ValueError):  # a file that is gone
            return
        for protocol in grid.protocols:
            if protocol != RAN:
                option = f" --protocol {protocol}" if protocol in PROTOCOLS else ""
                yield from ((option, cell) for cell in grid.cells(protocol or None))


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in PLACES)
