"""`bench list`: what a grid can name."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from bench.commands.catalog import Entry, catalog

WIDTH = 60


def listing(kind: str) -> str:
    """A table of the names of one kind."""
    entries = catalog()[kind]
    columns = list(entries[0])
    rows = [columns, *([_cell(entry[column]) for column in columns] for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else textwrap.shorten(str(value), WIDTH, placeholder=" ...")


def describe(kind: str, name: str) -> str:
    """Everything that is known under one name: the class's own text and fields, or the catalogue's entry."""
    if kind in ("defenses", "attacks"):
        return _class_text(_registry(kind)[name])
    entries = {entry["name"]: entry for entry in catalog()[kind]}
    if name not in entries:
        from defenses.registry import unknown_name

        raise unknown_name(kind.removesuffix("s"), name, entries)
    return _grid_text(name) if kind == "grids" else _fields(entries[name])


def _grid_text(name: str) -> str:
    from bench.grids import load_grid

    grid = load_grid(name)
    tables = ", ".join(table.name for table in grid.tables)
    lines = [f"{name}: {grid.title}", "", grid.about, "", f"cells: {len(list(grid.cells()))}"]
    return "\n".join([*lines, *([f"tables: {tables}"] if tables else [])])


def _registry(kind: str) -> Any:
    if kind == "defenses":
        from defenses import defenses

        return defenses
    from bench.attacks import attacks

    return attacks


def _class_text(cls: Any) -> str:
    import dataclasses

    lines = [f"{cls.name}  (version {cls.version})", "", inspect.getdoc(cls) or "", "", "Fields and defaults:"]
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        lines.append(f"  {field.name} = {default}")
    flags = ("stochastic", "batch_coupled", "gradients", "restricted", "gradient_free")
    lines += ["", *(f"{flag}: {getattr(cls, flag)}" for flag in flags if hasattr(cls, flag))]
    if caveat := getattr(cls, "published_caveat", ""):
        lines.append(f"published numbers: {caveat}")
    if (cost := _cost(cls)) is not None:
        lines.append(f"score-network evaluations an answer, an image (defaults): {cost}")
    return "\n".join([*lines, f"source: {cls.source}"])


def _cost(cls: Any) -> int | None:
    try:
        return cls().network_evaluations
    except (TypeError, AttributeError):
        return None


def _fields(entry: Entry) -> str:
    return "\n".join(f"{key}: {value}" for key, value in entry.items())
