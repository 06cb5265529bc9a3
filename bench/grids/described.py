"""A grid as plain data: its cells and its tables, so that a report needs neither the grid's file nor torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.grids.grid import Grid
from bench.planned import PlannedCell, pack_cells, unpack_cells
from bench.report import Curve, Table
from bench.report.members import Members

PROTOCOLS = ("paper", "strong", "gold", "both", "quick")
DEFAULT = ""  # the protocol of a grid that is not asked for one
PLAIN = ("name", "title", "caption", "rows", "columns", "values", "where")


@dataclass(frozen=True, kw_only=True)
class DescribedGrid:
    """What a report needs to know of a grid.

    Attributes:
        title: heading of its tables.
        caption: sentence below the heading of a grid without tables.
        quick_note: sentence added to every caption where only cells of the quick tier are shown.
        tables: its layouts.
        curve: what `--format svg` draws.
        protocols: protocol -> its cells as `pack_cells` writes them; `DEFAULT` is that of a grid that is not asked.
        names: what `bench.commands.names.gather_names` wrote down of them.
    """

    title: str
    caption: str
    quick_note: str
    tables: tuple[Table, ...]
    curve: Curve | None
    protocols: Mapping[str, Sequence[Mapping[str, Any]]]
    names: Mapping[str, Any]

    def cells(self, protocol: str | None = None) -> list[PlannedCell]:
        """The cells, in the grid's order.

        Raises:
            ValueError: a protocol that the grid has not.
        """
        wanted = DEFAULT if protocol is None else protocol
        if wanted in self.protocols:
            return list(unpack_cells(self.protocols[wanted]))
        known = [name for name in PROTOCOLS if name in self.protocols]
        if not known:
            raise ValueError(f"The grid {self.title} has one protocol only. Leave --protocol out.")
        raise ValueError(f"Expected protocol among {', '.join(known)}, got {protocol!r}.")


def describe_grid(grid: Grid, protocols: Mapping[str, Sequence[PlannedCell]], names: Mapping[str, Any]) -> Any:
    """Write a grid down as JSON; None where its tables choose cells by functions that no data describe.

    Args:
        grid: the grid.
        protocols: protocol -> cells.
        names: of everything that its cells name.
    """
    tables = [_describe_table(table) for table in grid.tables]
    if None in tables:
        return None
    packed = {name: pack_cells(cells) for name, cells in protocols.items()}
    return {
        "title": grid.title,
        "caption": grid.caption,
        "quick_note": grid.quick_note,
        "tables": tables,
        "curve": asdict(grid.curve) if grid.curve else None,
        **_share_entries(packed),
        "names": names,
    }


def read_grid(described: Mapping[str, Any]) -> DescribedGrid:
    """Undo `describe_grid`."""
    entries = described["entries"]
    return DescribedGrid(
        **{name: described[name] for name in ("title", "caption", "quick_note", "names")},
        tables=tuple(_read_table(table) for table in described["tables"]),
        curve=Curve(**described["curve"]) if described["curve"] else None,
        protocols={name: [entries[i] for i in places] for name, places in described["protocols"].items()},
    )


def _share_entries(packed: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Each entry once, and its places in the protocols."""
    entries: list[Any] = []
    place: dict[str, int] = {}
    protocols: dict[str, list[int]] = {}
    for name, found in packed.items():
        protocols[name] = []
        for entry in found:
            text = json.dumps(entry, sort_keys=True)
            if text not in place:
                place[text] = len(entries)
                entries.append(entry)
            protocols[name].append(place[text])
    return {"entries": entries, "protocols": protocols}


def _describe_table(table: Table) -> dict[str, Any] | None:
    given = {f.name: f.default for f in fields(Table)}
    members = getattr(table.only, "__self__", None)
    if isinstance(members, Members) and table.overrides == members.compare:
        return {name: getattr(table, name) for name in PLAIN} | {"members": dict(members.published)}
    if table.only is not given["only"] or table.overrides is not given["overrides"]:
        return None
    return {name: getattr(table, name) for name in PLAIN}


def _read_table(described: Mapping[str, Any]) -> Table:
    plain = {name: described[name] for name in PLAIN}
    plain |= {name: tuple(plain[name]) for name in ("rows", "columns", "values")}
    plain["where"] = {name: tuple(wish) if isinstance(wish, list) else wish for name, wish in plain["where"].items()}
    if "members" not in described:
        return Table(**plain)
    members = Members(lambda: described["members"])
    return Table(**plain, only=members.holds, overrides=members.compare)


def hash_file(path: Path) -> str:
    """The sha256 of a grid's file and of the modules beside it, which it may import."""
    digest = hashlib.sha256(path.read_bytes())
    for other in sorted(path.parent.glob("*.py"))[:100]:
        digest.update(other.name.encode() + other.read_bytes())
    return digest.hexdigest()
