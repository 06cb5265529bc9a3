"""`bench status`: what is done, who works on what, and how long the rest takes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from bench.commands.grid_data import find_grid
from bench.store import Store
from bench.store.rows import RowValues

WINDOW = 600.0  # seconds over which the present rate is taken


def describe_status(db: str, grid: str | None, protocol: str | None = None) -> tuple[str, int]:
    """Describe the state of a database, or of one grid's cells in it.

    Args:
        db: path or URL of the database.
        grid: only this grid's cells, whether begun or not; None is all cells of the database.
        protocol: as for `bench run`.

    Returns:
        The text, and how many cells are neither done nor failed.
    """
    with Store(db, readonly=True) as store:
        cells = {row["key"]: row for row in store.progress()}
        if grid is not None:
            wanted = {cell.key: cell for cell in find_grid(grid, store).cells(protocol)}
            new = {"status": "waiting", "images": 0}
            sizes = {key: cell.columns["num_images"] for key, cell in wanted.items()}
            cells = {key: cells.get(key, {"key": key, "num_images": size, **new}) for key, size in sizes.items()}
        claims = [claim for claim in store.claims() if claim["cell_key"] in cells and claim["live"]]
        images, seconds = store.measure_rate(WINDOW)
    busy = {claim["cell_key"] for claim in claims}
    states = Counter(_name_state(row, busy) for row in cells.values())
    total = sum(row["num_images"] for row in cells.values())
    done = sum(row["num_images"] if row["status"] == "done" else row["images"] for row in cells.values())
    order = ("done", "running", "broken off", "failed", "waiting")
    lines = [
        f"{len(cells)} cells: " + ", ".join(f"{states[name]} {name}" for name in order if states[name]) + f" ({db}).",
        f"{done} of {total} images." + _forecast(images, seconds, total - done),
        *(_describe_claim(claim) for claim in claims),
    ]
    return "\n".join(lines), len(cells) - states["done"] - states["failed"]


def _name_state(row: RowValues, busy: set[str]) -> str:
    return "broken off" if row["status"] == "running" and row["key"] not in busy else row["status"]


def _forecast(images: int, seconds: float, left: int) -> str:
    if not images or not left:
        return ""
    rate = images / max(seconds, 1.0)
    return f" {rate:.2g} images/s in the last {seconds / 60:.0f} min; {left / rate / 60:.0f} min left at this rate."


def _describe_claim(claim: RowValues) -> str:
    now = datetime.now(UTC).replace(tzinfo=None)
    unit = f"batch {claim['unit']}" if claim["unit"].isdigit() else claim["unit"]
    since = max(0.0, (now - claim["claimed_at"]).total_seconds())
    lease = (claim["expires_at"] - now).total_seconds()
    return f"  {claim['cell_key'][:8]} {unit}: {claim['holder']}, for {since:.0f} s, lease ends in {lease:.0f} s"
