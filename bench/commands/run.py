"""`bench run`: choose cells, run them, print the table."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import torch

from bench.cell import Cell
from bench.commands.grid_data import remember
from bench.commands.report import tables
from bench.evidence import Vault
from bench.grids import grid_label, load_grid
from bench.printable import one_line
from bench.run.display import Lines, Showing, make_watcher
from bench.run.prepare import Loader
from bench.run.rates import Rates
from bench.run.runner import run_cells
from bench.run.work import Outcome, Sharing, Watcher
from bench.store import Store
from bench.store.database import parse_url, sqlite_path
from bench.store.network_files import check_alone
from bench.store.smoke_mark import check_database
from defenses.models.compiled import Compiling
from defenses.precision import stay_in_float32


def loader(device: str | None, data_dir: Path | None, download: bool, *, compiled: bool = False) -> Loader:
    """Make the loader of a run: its device and where its data sets come from.

    Args:
        device: as torch writes it; None is $BENCH_DEVICE, else a GPU where there is one, else the CPU.
        data_dir: folder of data sets; None is the default one.
        download: whether torchvision may download a missing data set.
        compiled: whether networks are compiled for the gradients of attacks.

    Raises:
        ValueError: torch cannot use this device here.
    """
    name = device or os.environ.get("BENCH_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device that torch can use here, got {name!r} ({_take_first_line(error)}). Try cpu."
        ) from error
    stay_in_float32()
    return Loader(found, data_dir, download, Compiling() if compiled else None)


def _take_first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]


def execute(
    cells: Sequence[Cell],
    db: str,
    loader: Loader,
    *,
    grid: str,
    force: bool = False,
    sharing: Sharing = Sharing(),  # noqa: B008 - frozen
    patience: float = 0.0,
    table: bool = True,
    vault: Vault | None = None,
    showing: Showing = Showing(),  # noqa: B008 - frozen
) -> Outcome:
    """Run the cells into the database, print their table and what came of them.

    Args:
        cells: what to run.
        db: path or URL of the database.
        loader: where data sets and networks come from.
        grid: the name or the file of the grid.
        force: run again what is done.
        sharing: how the work is shared with other processes.
        patience: seconds for which a database that is locked or away is asked again.
        table: whether to print the table and the summary.
        vault: where the adversarial images are kept; None keeps none.
        showing: how much is shown on the way, and where else.
    """
    watcher: type[Lines] | None = None if table else Lines
    with open_store(db, patience=patience) as store:
        with make_watcher(cells=cells, showing=showing, gates=load_grid(grid).gates, kind=watcher) as shown:
            outcome = measure(cells, store, loader, shown, grid=grid, force=force, sharing=sharing, vault=vault)
            tell_tracebacks(outcome, store, shown, showing)
        if table:
            click.echo(tables(store, grid, cells, "text"))
            click.echo(write_summary(outcome, cells, store, grid))
    return outcome


@contextmanager
def open_store(db: str, *, patience: float = 0.0) -> Iterator[Store]:
    """A database that results go to; while it is open, SIGTERM ends a run as Ctrl-C does.

    Args:
        db: path or URL of the database.
        patience: seconds for which a database that is locked or away is asked again.
    """
    with stop_on_sigterm(), Store(db, patience=patience) as store:
        check_database(store, smoke=False)
        check_alone(store)
        yield store


def measure(
    cells: Sequence[Cell],
    store: Store,
    loader: Loader,
    watcher: Watcher,
    *,
    grid: str,
    force: bool,
    sharing: Sharing = Sharing(),  # noqa: B008 - frozen
    vault: Vault | None = None,
) -> Outcome:
    """Run the cells of a grid, with the validity gates that it asks for.

    Args:
        cells: what to run.
        store: where the results go.
        loader: where data sets and networks come from.
        watcher: is told what happens.
        grid: the name or the file of the grid.
        force: run again what is done.
        sharing: how the work is shared with other processes.
        vault: where the adversarial images are kept; None keeps none.
    """
    gates, label = load_grid(grid).gates, grid_label(grid)
    remember(store, grid, cells)
    return run_cells(cells, store, loader, watcher, grid=label, force=force, gates=gates, sharing=sharing, vault=vault)


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """What a cluster sends before it kills ends a run as Ctrl-C does: what is finished stays, for any host to go on."""
    if threading.current_thread() is not threading.main_thread():  # only there Python sets handlers
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_tracebacks(outcome: Outcome, store: Store, shown: Lines, showing: Showing) -> None:
    """Add the tracebacks of the cells that failed to the log, and show them with --verbose."""
    for cell in outcome.failed:
        text = f"{shown.name(cell)}:\n{store.runs_of(cell.key)[0]['error_traceback']}"
        shown.note(text)
        if showing.verbose:
            click.echo(text, err=True)


def write_summary(outcome: Outcome, cells: Sequence[Cell], store: Store, grid: str) -> str:
    """Say in lines how many cells ended how, what failed, and what to look at next."""
    lines = []
    if len(outcome.skipped) == len(cells):
        lines.append(f"Nothing to do: all {len(cells)} cells are done ({store.where}). --force runs them again.")
    else:
        counts = ((len(getattr(outcome, kind)), kind) for kind in ("done", "skipped", "elsewhere", "busy", "failed"))
        lines.append(f"{', '.join(f'{n} {kind}' for n, kind in counts if n)} ({store.where}).")
    for cell in outcome.failed:
        run = store.runs_of(cell.key)[0]
        lines.append(one_line(f"Failed: {cell}: {run['error_message']} Details: bench show {cell.key}"))
    option = "" if grid == "quickstart" else f" --grid {grid}"
    lines.append(f"More: bench report{option} --format latex, bench show {cells[0].key[:6]}, bench query 'SELECT ...'.")
    return "\n".join(lines)


def smoke(
    cells: Sequence[Cell],
    db: str,
    device: str | None,
    *,
    grid: str,
    limit: int | None = None,
    data_dir: Path | None = None,
    showing: Showing = Showing(),  # noqa: B008 - frozen
) -> Outcome:
    """Run the code paths of the cells on toy networks and print what came of it; see `bench.run.smoke`.

    Args:
        cells: of the grid.
        db: path or URL of the database of smoke runs.
        device: as torch writes it; None is a GPU where there is one, else the CPU.
        grid: the name or the file of the grid.
        limit: at most so many toy cells.
        data_dir: folder of the data sets.
        showing: how much is shown on the way, and where else.
    """
    from bench.run.smoke import toy_cells, toy_world

    _check_smoke_file(db)
    with Store(db) as store:
        check_database(store, smoke=True)
        toys = toy_cells(cells, limit)
        with toy_world(cells, data_dir), make_watcher(cells=toys, showing=showing) as shown:
            begin = time.perf_counter()
            outcome = run_cells(toys, store, loader(device, None, False), shown, grid=grid_label(grid), force=True)
        for cell in outcome.failed:
            click.echo(one_line(f"Failed: {cell}: {store.runs_of(cell.key)[0]['error_message']}"))
        spent = time.perf_counter() - begin
        click.echo(f"Smoke: {len(outcome.done)} done, {len(outcome.failed)} failed in {spent:.0f} s ({store.where}).")
    return outcome


def _check_smoke_file(db: str) -> None:
    """Refuse a database of results before anything is written to it."""
    path = sqlite_path(parse_url(db))
    if path is not None and path.exists() and path.stat().st_size:
        with Store(db, readonly=True) as store:
            check_database(store, smoke=True)


def dry_run(cells: Sequence[Cell], db: str, rates: Rates, *, grid: str) -> None:
    """Print which cells would run, what is missing, and what they would cost."""
    from bench.run.forecast import forecast

    found = load_grid(grid)
    for line in forecast(cells, db, rates, found.gates, found.tables):
        click.echo(line)
