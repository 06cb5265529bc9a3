"""Writes every generated block of the documents again: `python docs/refresh.py`. tests/test_docs.py holds them to it.

A block stands between `<!-- name -->` and `<!-- /name -->`; numbers come from docs/quickstart.csv,
docs/planted.csv and results.sqlite.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cell import Cell
from bench.commands.catalog import build
from bench.commands.report import tables
from bench.commands.titles import with_titles
from bench.grids import grid_cells
from bench.report import Table, render
from bench.statistics import compare, is_established
from bench.store import Store
from defenses.models.weights import asset_record

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def quickstart() -> str:
    """The quickstart's table, from the committed export."""
    frame = pd.read_csv(DOCS / "quickstart.csv")
    return render(with_titles(frame), format="markdown", title="Quickstart")


SUMMARY = {
    "undefended": ("exact",),
    "adversarial_training": ("exact",),
    "diffpure_sde": ("transfer", "straight_through", "exact"),
    "contrastive": ("exact", "guidance_detached"),
}
"""Defense -> kinds of gradient: the quickstart's rows that the README shows."""


def summary() -> str:
    """The README's table: the rows of `SUMMARY`, as the quickstart shows them."""
    frame = pd.read_csv(DOCS / "quickstart.csv")
    layout = Table(name="summary", columns=(), only=_in_summary)
    return render(with_titles(frame), format="markdown", tables=(layout,))


def _in_summary(cell: dict[str, Any]) -> bool:
    per_image = cell["defense_params"].get("per_image", False)
    shown = cell["gradient"] in SUMMARY.get(cell["defense"], ())
    return shown and cell["classifier"] == "digits_cnn" and not per_image


def defenses() -> str:
    """A line a registered defense."""
    lines = ["| defense | stochastic | gradients | evaluations | source |", "|---|---|---|--:|---|"]
    for entry in build()["defenses"]:
        stochastic = "yes" if entry["stochastic"] else "no"
        cost = "" if entry["evaluations"] is None else entry["evaluations"]
        lines.append(f"| `{entry['name']}` | {stochastic} | {entry['gradients']} | {cost} | {entry['source']} |")
    return "\n".join(lines)


def grid(name: str, table: str | None = None, protocol: str | None = None) -> Callable[[], str]:
    """The tables of a grid, or one of them, from the committed database. Of the larger grids an hour of a CPU runs
    a part; cells that have not run are counted below their tables, not shown."""

    def block() -> str:
        with Store(ROOT / "results.sqlite", readonly=True) as store:
            if name.startswith(("cifar10", "other")):
                cells = grid_cells(name)
                ran = [cell for cell in cells if _latest(store, cell) is not None]
                try:
                    text = tables(store, name, ran or cells, "markdown", table=table)
                except ValueError:  # nothing of this table has run: dashes
                    text = tables(store, name, cells, "markdown", table=table)
                share = f"All {len(cells)}" if len(ran) == len(cells) else f"{len(ran)} of the {len(cells)}"
                return f"{text.strip()}\n\n{share} cells of the grid `{name}` have run."
            return tables(store, name, grid_cells(name, protocol), "markdown", table=table)

    return block


def _latest(store: Store, cell: Cell) -> dict[str, Any] | None:
    try:
        return store.latest_done(store.cell(cell.key)["key"])
    except LookupError:
        return None


def survivors() -> str:
    """What the exact gradient takes of what the transfer attack leaves, for each defense on digits, by paired tests."""
    cells = {(cell.defense.name, cell.threat.gradient): cell for cell in grid_cells("digits_defenses")}
    pairs = [
        (cells[name, "transfer"], exact)
        for (name, kind), exact in cells.items()
        if kind == "exact" and exact.defense.stochastic
    ]
    return _paired(pairs, "Transfer", "Exact")


def shortfall() -> str:
    """What PGD leaves more than `strong`, both with the exact gradient, of each digits defense that both attacked."""
    strong = {cell.defense.name: cell for cell in grid_cells("digits_defenses") if cell.threat.gradient == "exact"}
    exact = (cell for cell in grid_cells("attack_precision") if cell.threat.gradient == "exact")
    pgd = {cell.defense.name: cell for cell in exact if (cell.dataset, cell.attack_precision) == ("digits", "float32")}
    return _paired([(pgd[name], strong[name]) for name in strong if name in pgd], "PGD", "`strong`")


def _paired(pairs: Sequence[tuple[Cell, Cell]], first: str, second: str) -> str:
    """A line a defense whose two cells have run, on the pictures of both: largest difference first, then by name."""
    rows = []
    with Store(ROOT / "results.sqlite", readonly=True) as store:
        for pair in pairs:
            runs = [_latest(store, cell) for cell in pair]
            if None not in runs:
                found = compare(*(store.images(run["id"]) for run in runs if run is not None))
                rows.append((found, pair[1].defense.title))
    lines = [
        f"| Defense | Pictures | {first} | {second} | Difference, 95 % | McNemar p | Established |",
        "| :-- | --: | --: | --: | --: | --: | :-- |",
    ]
    for c, title in sorted(rows, key=lambda row: (-round(row[0]["difference"], 1), row[1])):
        difference = f"{c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}]"
        told = f"{c['p_value']:.2g} | {'yes' if is_established(c) else 'no'}"
        numbers = f"{c['images']:.0f} | {c['a_accuracy']:.1f} | {c['b_accuracy']:.1f}"
        lines.append(f"| {title} | {numbers} | {difference} | {told} |")
    return "\n".join(lines)


def planted() -> str:
    """The planted false defenses, kind by kind, from docs/planted.csv."""
    frame = pd.read_csv(DOCS / "planted.csv", dtype=str, keep_default_na=False)
    lines = []
    for kind, rows in frame.groupby("kind", sort=False):
        lines += [f"\n**{str(kind).capitalize()}**\n", "| defense | what it does | quick | gold | truth |"]
        lines.append("| :-- | :-- | :-- | :-- | --: |")
        for row in rows.to_dict("records"):
            name = f"`{row['defense'].removeprefix('planted_')}`, {row['gradient'].replace('_', '-')}"
            truth = row["truth"] if row["judged_on"] in ("", "test") else f"{row['truth']} ({row['judged_on']})"
            quick, gold = (_number_and_gates(row[part], row[f"{part}_told"]) for part in ("quick", "gold"))
            lines.append(f"| {name} | {row['what']} | {quick} | {gold} | {truth} |")
    return "\n".join(lines)


def _number_and_gates(number: str, told: str) -> str:
    if number == "failed":
        return f"failed: {told}"
    return ": ".join(filter(None, (number, ", ".join(f"`{gate}`" for gate in told.split()))))


def networks() -> str:
    """What defenses/models/assets/cifar10 holds, from the training records."""
    lines = [
        "| file | parameters | bytes | pictures seen | seconds | pictures / s | clean | PGD-20 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, made, again in (
        ("score", "record", ""), ("score", "repeated", ", again"), ("score", "further", ", 3,000 steps more"),
        ("classifier", "record", ""),
    ):  # fmt: skip
        record = asset_record(f"cifar10/{kind}", made)
        for name, file in record["files"].items():
            seen = file["steps"] * file["batch_size"]
            rate = seen / file["seconds"]
            accuracy = [f"{file[key]:.1f}" if key in file else "" for key in ("clean_accuracy", "pgd20_accuracy")]
            lines.append(
                f"| `{name}`{again} | {file['parameters']:,} | {file['bytes']:,} | {seen:,} | {file['seconds']:,.0f} | "
                f"{rate:.0f} | {' | '.join(accuracy)} |"
            )
    return "\n".join(lines)


def other_networks() -> str:
    """The classifiers of the grid `other_datasets`, from their training records."""
    lines = [
        "| name | trained on | parameters | bytes | pictures seen | seconds | clean |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for setting in OTHER_DATASETS["SETTINGS"]:
        record = asset_record(setting.dataset)
        (file,) = record["files"].values()
        pictures = f"{record['dataset']['train_images']:,} of `{setting.dataset}`"
        lines.append(
            f"| `{setting.classifier}` | {pictures} | {file['parameters']:,} | {file['bytes']:,} | "
            f"{file['steps'] * file['batch_size']:,} | {file['seconds']:,.0f} | {file['clean_accuracy']:.1f} |"
        )
    return "\n".join(lines)


def losses() -> str:
    """Squared error of the predicted noise at each time, from the records of the trainings."""
    records = [asset_record("cifar10/score", name)["files"].values() for name in ("record", "repeated", "further")]
    times: list[str] = []
    lines: list[str] = []
    for (record,), again in zip(records, ("", ", again", ", 3,000 steps more"), strict=True):
        times = list(record["loss_test"])
        for split in ("train", "test"):
            values = " | ".join(f"{record['loss_' + split][t]:.4f}" for t in times)
            lines.append(f"| {split}{again} | {values} |")
    return "\n".join([f"| t | {' | '.join(times)} |", f"|---|{'--:|' * len(times)}", *lines])


def curve(name: str) -> Callable[[], str]:
    """The curve of a grid as an SVG, from the committed database."""

    def picture() -> str:
        with Store(ROOT / "results.sqlite", readonly=True) as store:
            return tables(store, name, grid_cells(name), "svg")

    return picture


GUIDANCE = runpy.run_path(str(DOCS / "guidance.py"))
OTHER_DATASETS = runpy.run_path(str(DOCS / "other_datasets.py"))
PICTURES: dict[Path, Callable[[], str]] = {
    DOCS / "cifar10_noise_level.svg": curve("cifar10_noise_level"),
    DOCS / "guidance.svg": GUIDANCE["figure"],
}
BLOCKS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"summary": summary},
    DOCS / "assets.md": {"cifar10_networks": networks, "cifar10_losses": losses, "other_networks": other_networks},
    DOCS / "claims.md": runpy.run_path(str(DOCS / "claims.py"))["BLOCKS"],
    DOCS / "attacks.md": {
        "digits_attacks": grid("digits_attacks"),
        **runpy.run_path(str(DOCS / "attack_pairs.py"))["BLOCKS"],
    },
    DOCS / "defenses.md": {
        "defenses": defenses,
        "digits_defenses": grid("digits_defenses"),
        "survivors": survivors,
        "shortfall": shortfall,
    },
    DOCS / "performance.md": runpy.run_path(str(DOCS / "low_precision.py"))["BLOCKS"],
    DOCS / "planted.md": {"planted": planted},
    DOCS / "quickstart.md": {"quickstart": quickstart},
    DOCS / "findings.md": {
        **GUIDANCE["BLOCKS"],
        "guidance": grid("cifar10_guidance"),
        "main": grid("cifar10_small", "main"),
        **runpy.run_path(str(DOCS / "cifar10_pairs.py"))["BLOCKS"],
        "gold": grid("cifar10_small", "gold"),
        "clean": grid("cifar10_small", "clean"),
        "sweep": grid("cifar10_noise_level"),
        **OTHER_DATASETS["BLOCKS"],
        **{setting.dataset: grid("other_datasets", setting.dataset) for setting in OTHER_DATASETS["SETTINGS"]},
        "paper": grid("paper_tables", "sampler", protocol="quick"),
    },
}


def refreshed(path: Path) -> str:
    """The document with its blocks written again."""
    text = path.read_text(encoding="utf-8")
    for name, block in BLOCKS[path].items():
        pattern = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise LookupError(f"Expected a block <!-- {name} --> ... <!-- /{name} --> in {path.name}, found none.")
        written = f"<!-- {name} -->\n\n{block().strip()}\n\n<!-- /{name} -->"
        text = re.sub(pattern, lambda match, written=written: written, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for document in BLOCKS:
        document.write_text(refreshed(document), encoding="utf-8")
    for path, picture in PICTURES.items():
        path.write_text(picture(), encoding="utf-8")
