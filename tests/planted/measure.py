"""Measure every planted and honest defense, and write docs/planted.csv: `PYTHONPATH=.:tests python -m planted.measure`.

Three readings a defense: the quick cell of grid.py, a gold cell with all gates, and what the attack by hand leaves. A
row is written as soon as it is measured; names on the command line measure these alone, `--parts` some readings alone.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from planted import grid, lab
from planted.adaptive import Victim, truth
from planted.honest import HONEST
from planted.who_asks import forget

from bench.cell import Cell
from bench.datasets import subset
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from defenses.base import Gradient

OUT = Path(__file__).resolve().parents[2] / "docs" / "planted.csv"
COLUMNS = ("defense", "kind", "what", "gradient", "quick", "quick_told", "gold", "gold_told", "truth", "judged_on")


class Silent:
    """A watcher that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def printed(cell: Cell, loader: Loader) -> tuple[str, str]:
    """(robust accuracy in percent, gates that failed) of a cell; "failed" and the first sentence of the error."""
    forget()
    with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/one.sqlite") as store:
        run_cells([cell], store, loader, Silent(), grid="planted")
        run = store.runs_of(cell.key)[0]
    if run["status"] == "failed":
        return "failed", run["error_message"].split(". ")[0]
    failed = [gate["gate"] for gate in run["gates"] if gate["passed"] is False]
    return f"{run['robust_accuracy']:.1f}", " ".join(failed)


def by_hand(defense: Any, loader: Loader) -> str:
    """What the attack by hand leaves, in percent."""
    forget()
    cell = grid.cell(defense, defense.at, "quick")
    prepared = loader.prepare(cell)
    labels = lab.answers(defense.judged_on)
    places = subset(labels, cell.num_images, cell.data_seed, cell.balanced)
    images = lab.pictures(defense.judged_on)[places]
    return f"{truth(Victim(defense, prepared.classifier, prepared.score, images, labels[places])):.1f}"


def known() -> dict[str, dict[str, str]]:
    """The rows that are measured: defense -> row."""
    if not OUT.exists():
        return {}
    with OUT.open(newline="") as file:
        return {row["defense"]: row for row in csv.DictReader(file)}


def write(rows: dict[str, dict[str, str]]) -> None:
    """The file, in the order of the folder."""
    order = [cls.name for cls in lab.PLANTED] + [defense.name for defense, _ in HONEST]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in order if name in rows)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all where none is given")
    parser.add_argument("--parts", default="quick,gold,truth")
    parser.add_argument("--missing", action="store_true", help="what is not measured yet")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loader = Loader(torch.device("cpu"))
    every = [(cls(), cls.at, True) for cls in lab.PLANTED] + [(defense, kind, False) for defense, kind in HONEST]
    for defense, gradient, planted in every:
        before = known().get(defense.name, {})
        parts = [part for part in given.parts.split(",") if not (given.missing and before.get(part))]
        if (not given.names or any(part in defense.name for part in given.names)) and parts:
            row = describe(defense, gradient, planted) | measure(defense, gradient, planted, parts, loader)
            write(known() | {defense.name: dict.fromkeys(COLUMNS, "") | known().get(defense.name, {}) | row})
            print(*row.values(), sep=" | ", flush=True)


def describe(defense: Any, gradient: Gradient, planted: bool) -> dict[str, str]:
    """What a defense is, as columns."""
    if not planted:
        return {"defense": defense.name, "kind": "honest", "what": defense.title, "gradient": gradient}
    what = (type(defense).__doc__ or "").split("\n")[0].strip()
    named = {"defense": defense.name, "kind": defense.kind, "what": what, "gradient": gradient}
    return named | {"judged_on": defense.judged_on}


def measure(defense: Any, gradient: Gradient, planted: bool, parts: Collection[str], loader: Loader) -> dict[str, str]:
    """Some readings of a defense, as columns."""
    row = {}
    if "quick" in parts:
        row["quick"], row["quick_told"] = printed(grid.cell(defense, gradient, "quick"), loader)
    if "gold" in parts:
        attack = grid.gold(defense)
        row["gold"], row["gold_told"] = printed(grid.cell(defense, gradient, "gold", attack=attack), loader)
    if "truth" in parts and planted:
        row["truth"] = by_hand(defense, loader)
    return row


if __name__ == "__main__":
    main()
