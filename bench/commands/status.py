"""`bench status`: what is done, who works on what, and how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from bench.commands.grid_data import find_grid
from bench.grids import grid_label
from bench.store import Store
from bench.store.progress import Rate
from bench.store.rows import RowValues

WINDOW = 600.0  # seconds over which the present rate is taken
ORDER = ("done", "running", "broken off", "failed", "waiting")
SHOWN = 10  # failed cells; the tables have them all


def describe_status(
    db: str, grid: str | None, protocol: str | None = None, *, patience: float = 0.0
) -> tuple[str, int]:
    """Describe the state of a database, grid by grid, or of one grid's cells in it.

    Args:
        db: path or URL of the database.
        grid: only this grid's cells, whether begun or not; None is all cells of the database.
        protocol: as for `bench run`.
        patience: seconds for which a database that is locked or away is asked again.

    Returns:
        The text, and how many cells are neither done nor failed.
    """
    with Store(db, readonly=True, patience=patience) as store:
        cells = {row["key"]: row for row in store.progress()}
        if grid is not None:
            cells = _cells_of(grid, protocol, store, cells)
        claims = [claim for claim in store.claims() if claim["cell_key"] in cells and claim["live"]]
        busy = {claim["cell_key"] for claim in claims}
        groups: dict[str, list[RowValues]] = {}
        for row in cells.values():
            groups.setdefault(row["grid"] or "no grid", []).append(row | {"status": _name_state(row, busy)})
        rates = {name: store.measure_rate({row["key"] for row in rows}, WINDOW) for name, rows in groups.items()}
    lines = [f"{len(cells)} cells in {db}."]
    for name, rows in groups.items():
        lines.append(_describe_grid(name, rows, rates[name]))
        lines += [
            _describe_claim(claim, cells) for claim in claims if claim["cell_key"] in {row["key"] for row in rows}
        ]
        failed = [row for row in rows if row["status"] == "failed"]
        lines += [f"  {_name_cell(row)} failed: {row['error_message']}" for row in failed[:SHOWN]]
        lines += [f"  and {len(failed) - SHOWN} more failed"] if len(failed) > SHOWN else []
    ended = sum(row["status"] in ("done", "failed") for rows in groups.values() for row in rows)
    return "\n".join(lines), len(cells) - ended


def _cells_of(grid: str, protocol: str | None, store: Store, stored: Mapping[str, RowValues]) -> dict[str, RowValues]:
    """Rows of the cells of a grid, also of those that nobody has begun."""
    found, label = {}, grid_label(grid)
    for cell in find_grid(grid, store).cells(protocol):
        new = {name: cell.columns[name] for name in ("num_images", "batch_size", "defense", "attack")}
        new |= {"key": cell.key, "status": "waiting", "images": 0, "batches": 0}
        found[cell.key] = {**stored.get(cell.key, new), "grid": label}
    return found


def _name_state(row: RowValues, busy: set[str]) -> str:
    return "broken off" if row["status"] == "running" and row["key"] not in busy else row["status"]


def _describe_grid(name: str, rows: Sequence[RowValues], rate: Rate) -> str:
    states = Counter(row["status"] for row in rows)
    batches = [-(-row["num_images"] // (row["batch_size"] or row["num_images"])) for row in rows]
    complete = [row["status"] == "done" for row in rows]  # a newer run of a cell that is done may have begun
    done = sum(n if whole else row["batches"] for n, row, whole in zip(batches, rows, complete, strict=True))
    total = sum(row["num_images"] for row in rows)
    images = sum(row["num_images"] if whole else row["images"] for row, whole in zip(rows, complete, strict=True))
    text = f"{name}: {', '.join(f'{states[state]} {state}' for state in ORDER if states[state])}; "
    text += f"{done} of {sum(batches)} batches, {images} of {total} images"
    return text + _forecast(rate, total - images) + "."


def _forecast(rate: Rate, left: int) -> str:
    """How fast it went lately, and the time left if every image costs the same."""
    if not left:
        return ""
    if not rate.images:
        return f"; nothing stored for {_write_time(rate.idle)}" if rate.idle else ""
    speed = rate.images / max(rate.seconds, 1.0)
    return (
        f"; {speed:.2g} images/s in the last {_write_time(rate.seconds)}, {_write_time(left / speed)} left at this rate"
    )


def _describe_claim(claim: RowValues, cells: Mapping[str, RowValues]) -> str:
    unit = f"batch {claim['unit']}" if claim["unit"].isdigit() else claim["unit"]
    held = f"{claim['holder']}, for {_write_time(claim['age'])}, lease ends in {_write_time(claim['rest'])}"
    return f"  {_name_cell(cells[claim['cell_key']])} {unit}: {held}"


def _name_cell(row: RowValues) -> str:
    return f"{row['key'][:8]} {row['defense']} {row['attack']}"


def _write_time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
