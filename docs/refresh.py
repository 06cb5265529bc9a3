"""Writes every generated block of the documents again: `python docs/refresh.py`. tests/test_docs.py holds them to it.

A block stands between `<!-- name -->` and `<!-- /name -->`; numbers come from docs/quickstart.csv and results.sqlite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from bench.catalog import build
from bench.commands.report import tables
from bench.grids import grid_cells
from bench.report import render
from bench.store import Store

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def quickstart() -> str:
    """The quickstart's table, from the committed export."""
    frame = pd.read_csv(DOCS / "quickstart.csv")
    return render(frame, format="markdown", title="Quickstart")


def defenses() -> str:
    """A line a registered defense."""
    lines = ["| defense | stochastic | gradients | evaluations | source |", "|---|---|---|--:|---|"]
    for entry in build()["defenses"]:
        stochastic = "yes" if entry["stochastic"] else "no"
        cost = "" if entry["evaluations"] is None else entry["evaluations"]
        lines.append(f"| `{entry['name']}` | {stochastic} | {entry['gradients']} | {cost} | {entry['source']} |")
    return "\n".join(lines)


def grid(name: str) -> Callable[[], str]:
    """The tables of a grid, from the committed database."""

    def block() -> str:
        with Store(ROOT / "results.sqlite", readonly=True) as store:
            return tables(store, name, grid_cells(name), "markdown")

    return block


BLOCKS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"quickstart": quickstart, "defenses": defenses},
    DOCS / "attacks.md": {"digits_attacks": grid("digits_attacks")},
    DOCS / "defenses.md": {"digits_defenses": grid("digits_defenses")},
}


def refreshed(path: Path) -> str:
    """The document with its blocks written again."""
    text = path.read_text()
    for name, block in BLOCKS[path].items():
        pattern = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise LookupError(f"Expected a block <!-- {name} --> ... <!-- /{name} --> in {path.name}, found none.")
        written = f"<!-- {name} -->\n\n{block().strip()}\n\n<!-- /{name} -->"
        text = re.sub(pattern, lambda match, written=written: written, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for document in BLOCKS:
        document.write_text(refreshed(document))
