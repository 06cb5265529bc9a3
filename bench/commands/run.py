"""`bench run`: choose cells, run them, print the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from bench.cell import Cell
from bench.commands.report import tables
from bench.grids import grid_cells, grid_label
from bench.prepare import Loader
from bench.progress import watcher
from bench.publish import parse_epsilon
from bench.run import Outcome, run_cells
from bench.store import Store
from defenses.registry import unknown_name


def chosen(grid: str, *, filters: Sequence[str] = (), limit: int | None = None, **changes: int | None) -> list[Cell]:
    """The cells of a grid that pass the filters, with `changes` (seed, num_images) made."""
    wanted: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    cells = [dataclasses.replace(cell, **wanted) for cell in grid_cells(grid)]
    cells = [cell for cell in cells if _passes(cell.row(), _parse(filters))]
    if not cells:
        raise LookupError(f"No cell of {grid} passes {' '.join(filters)}. See them with `bench run --dry-run`.")
    return cells[:limit]


def _parse(filters: Sequence[str]) -> dict[str, list[str]]:
    """column -> values that pass; several filters on one column are alternatives."""
    parsed: dict[str, list[str]] = {}
    for text in filters:
        column, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected --filter COLUMN=VALUE, got {text!r}. For example --filter defense=contrastive.")
        parsed.setdefault(column, []).append(value)
    return parsed


def _passes(row: dict[str, Any], wanted: dict[str, list[str]]) -> bool:
    for column, values in wanted.items():
        if column not in row:
            raise unknown_name("column", column, row)
        if not any(_equal(row[column], value) for value in values):
            return False
    return True


def _equal(stored: Any, text: str) -> bool:
    if isinstance(stored, float):
        number = parse_epsilon(text)
        return number is not None and abs(stored - number) <= 1e-6 * max(1.0, abs(number))
    return str(stored) == text


def loader(device: str | None, data_dir: Path | None, download: bool) -> Loader:
    """Where and from what to run. Raises ValueError for a device that this machine does not have."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device that torch can use here, got {name!r} ({_first(error)}). Try cpu."
        ) from error
    return Loader(found, data_dir, download)


def _first(error: BaseException) -> str:
    return str(error).split("\n")[0]


def execute(cells: Sequence[Cell], db: str, loader: Loader, *, grid: str, force: bool) -> Outcome:
    """Run the cells into the database and print what came of it."""
    with Store(db) as store:
        with watcher() as shown:
            outcome = run_cells(cells, store, loader, shown, grid=grid_label(grid), force=force)
        click.echo(tables(store, grid, cells, "text"))
        click.echo(_summary(outcome, cells, store, grid))
    return outcome


def _summary(outcome: Outcome, cells: Sequence[Cell], store: Store, grid: str) -> str:
    lines = []
    if len(outcome.skipped) == len(cells):
        lines.append(f"Nothing to do: all {len(cells)} cells are done ({store.where}). --force runs them again.")
    else:
        counts = ((len(getattr(outcome, kind)), kind) for kind in ("done", "skipped", "busy", "failed"))
        lines.append(f"{', '.join(f'{n} {kind}' for n, kind in counts if n)} ({store.where}).")
    for cell in outcome.failed:
        run = store.runs_of(cell.key)[0]
        lines.append(f"Failed: {cell}: {run['error_message']} Details: bench show {cell.key}")
    option = "" if grid == "quickstart" else f" --grid {grid}"
    lines.append(f"More: bench report{option} --format latex, bench show {cells[0].key[:6]}, bench query 'SELECT ...'.")
    return "\n".join(lines)


def dry_run(cells: Sequence[Cell], db: str, loader: Loader) -> None:
    """Print which cells would run, what is missing, and what they would cost."""
    from bench.forecast import forecast

    click.echo(forecast(cells, db, loader))
