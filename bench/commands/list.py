"""`bench list`: what a grid can name."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from bench.commands.catalog import Entry, catalog, entries_of
from defenses.plugins import installed_plugins
from defenses.user_file import has_loaded_files

PATTERNS = {
    "datasets": (
        "npz:<path>", "imagefolder:<path>", "imagefolder:<size>:<path>", "hf:<folder>", "<file>.py:<function>",
    ),
    "classifiers": (
        "robustbench:<dataset>:<threat>:<model>", "timm:<name>", "hf:<folder>", "file:<architecture>:<path>",
        "<file>.py:<function>",
    ),
    "scores": (
        "diffusers:<repository or folder>", "file:ddpmpp<size>:<path>", "file:guided<size>:<path>",
        "file:blocks<size>:<path>", "file:velocity<size>:<path>", "<file>.py:<function>",
    ),
}  # fmt: skip
"""Names made on the spot; the registries hold the same (a test compares them), but would import torch."""
WIDTH = 60  # of a cell of a listing
MAX_WIDTH, MAX_CELL = 120, 22  # of a description; of a cell of its table of fields


def listing(kind: str) -> str:
    """A table of the names of one kind."""
    entries = _entries(kind)
    columns = list(entries[0])
    rows = [columns, *([_cell(entry[column]) for column in columns] for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *_footer(kind)])


def _footer(kind: str) -> list[str]:
    """The names that stand for files and hubs, where there are such."""
    if kind not in PATTERNS:
        return []
    return [
        "",
        *textwrap.wrap(f"Also {', '.join(PATTERNS[kind])} (docs/your-own.md).", MAX_WIDTH, break_on_hyphens=False),
    ]


def _entries(kind: str) -> list[Entry]:
    """The catalogue's entries, and those of plug-ins where there are any: only these cost an import of torch."""
    shipped = catalog()[kind]
    if not installed_plugins(kind) and not has_loaded_files():
        return shipped
    names = {entry["name"] for entry in shipped}
    return [*shipped, *(entry for entry in entries_of(kind) if entry["name"] not in names)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else textwrap.shorten(str(value), WIDTH, placeholder=" ...")


def describe(kind: str, name: str) -> str:
    """Everything that is known under one name: the class's own text and fields, or the catalogue's entry."""
    if kind in ("defenses", "attacks"):
        return _class_text(_registry(kind)[name])
    entries = {entry["name"]: entry for entry in _entries(kind)}
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
    """Title, source, text, table of fields and class attributes of a defense or an attack, for this terminal."""
    from defenses.registry import field_docs

    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    meanings = field_docs(cls)
    rows = [(field.name, _default(field), meanings.get(field.name, "")) for field in dataclasses.fields(cls)]
    parts = [
        _filled(f"{cls.name}: {cls.title} (version {cls.version})", width),
        _filled(f"Source: {cls.source}", width),
        "\n\n".join(_filled(paragraph, width) for paragraph in _paragraphs(cls)),
        _table(("field", "default", "meaning"), rows, width) if rows else "It has no fields.",
        "\n".join(_filled(f"{name}: {value}", width, "  ") for name, value in _traits(cls)),
    ]
    if caveat := getattr(cls, "published_caveat", ""):
        parts.append(_filled(f"Published numbers: {caveat}", width))
    return "\n\n".join(parts)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())


def _paragraphs(cls: Any) -> list[str]:
    """A docstring's paragraphs but for its section `Attributes:`, which the table of fields shows."""
    text, _, section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    rest = itertools.dropwhile(lambda line: not line or line.startswith(" "), section.splitlines())
    return [part for part in (*text.split("\n\n"), *"\n".join(rest).split("\n\n")) if part.strip()]


def _filled(text: str, width: int, later: str = "") -> str:
    """A paragraph to this width, further lines after `later`; indented lines (code, formulas) stay as they are."""
    if any(line.startswith(" ") for line in text.splitlines()):
        return text
    return textwrap.fill(text, width, subsequent_indent=later, break_on_hyphens=False, break_long_words=False)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int) -> str:
    """Columns side by side; the last one, and cells longer than MAX_CELL, wrap."""
    sizes = [min(max(len(row[i]) for row in [head, *rows]), MAX_CELL) for i in range(len(head) - 1)]
    sizes.append(max(width - sum(sizes) - 2 * len(sizes), MAX_CELL))
    lines = []
    for row in [head, tuple("-" * len(name) for name in head), *rows]:
        cells = [textwrap.wrap(text, size, break_on_hyphens=False) for text, size in zip(row, sizes, strict=True)]
        for pieces in itertools.zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(piece.ljust(size) for piece, size in zip(pieces, sizes, strict=True)).rstrip())
    return "\n".join(lines)


def _traits(cls: Any) -> list[tuple[str, str]]:
    """What a class declares beside its fields, as an instance with the default fields has it."""
    try:
        made = cls()
    except TypeError:  # a required field
        made = cls
    flags = ("stochastic", "batch_coupled", "restricted", "gradient_free")
    traits = [(flag, _cell(getattr(made, flag))) for flag in flags if hasattr(made, flag)]
    if hasattr(made, "norms"):
        traits.append(("norms", ", ".join(made.norms)))
    if hasattr(made, "gradients"):
        traits.append(("gradients", ", ".join((*made.gradients, "straight_through", "transfer", "none"))))
        traits.append(("needs", _needs(made)))
    if made is not cls and hasattr(made, "network_evaluations"):
        cost = f"{made.network_evaluations} of the score network for one answer for one image, with the defaults"
        traits.append(("evaluations", cost))
    return traits


def _needs(defense: Any) -> str:
    score = "a score network" + (" or the score of the images alone" if defense.takes_data_score else "")
    needs = ((score, defense.needs_score), ("the classifier", defense.needs_classifier))
    return " and ".join(what for what, needed in needs if needed) or "nothing"


def _fields(entry: Entry) -> str:
    return "\n".join(f"{key}: {value}" for key, value in entry.items())
