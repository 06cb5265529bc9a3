"""`bench run --workers N --launcher ...`: worker processes here, in Slurm or in Ray, and their table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from bench.cell import Cell
from bench.commands.launching import Launching, absolute, absolute_grid, log_folder
from bench.commands.report import tables
from bench.commands.run import stop_on_sigterm, write_summary
from bench.launchers.command import WorkerCommand
from bench.launchers.local import count_gpus, run_here
from bench.run.runner import is_done
from bench.run.work import Outcome
from bench.store import Store
from bench.store.smoke_mark import check_database


def count_workers(launching: Launching, device: str | None) -> int:
    """How many workers to start: as asked, else one for each GPU unless a device is named."""
    if launching.workers is not None:
        return launching.workers
    return max(1, count_gpus()) if device is None else 1


def write_options(values: Mapping[str, Any]) -> list[str]:
    """Write options as words of a command line; None, False and () are left out."""
    words: list[str] = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, str(one)]
    return words


def execute_with_workers(
    cells: Sequence[Cell],
    db: str,
    options: Mapping[str, Any],
    launching: Launching,
    *,
    grid: str,
    device: str | None,
    force: bool,
) -> Outcome | None:
    """Run the cells by worker processes, and print the table once all have ended.

    Args:
        cells: what to run.
        db: path or URL of the database.
        options: of `bench worker`, but its grid, its database, its device and `--after`.
        launching: where the workers run.
        grid: the name or the file of the grid.
        device: the device of all of them; None shares out the GPUs, or the CPU.
        force: run again what is done.

    Returns:
        What became of the cells; None where Slurm's jobs go on without this process.
    """
    launching.check(db)
    with stop_on_sigterm(), Store(db, patience=options.get("patience") or 0.0) as store:
        check_database(store, smoke=False)
        after = store.last_run() if force else 0
        before = {cell.key for cell in cells if is_done(store, cell, after)}
        lost: list[str] = []
        if len(before) < len(cells):
            more = {"grid": absolute_grid(grid), "after": after, "one_host": launching.may_share_file, **options}
            command = WorkerCommand(options=tuple(write_options(more)), db=absolute(db), folder=os.getcwd())
            codes = _launch(command, launching, count_workers(launching, device), device, grid)
            if codes is None:
                return None
            lost = [f"worker {n} ended with code {code}" for n, code in enumerate(codes) if code not in (0, 1, 3)]
        outcome = _judge(store, cells, before, after)
        click.echo(tables(store, grid, cells, "text"))
        click.echo(write_summary(outcome, cells, store, grid))
        if lost:
            click.echo(f"{'; '.join(lost)}. The same command continues.", err=True)
    return outcome


def _judge(store: Store, cells: Sequence[Cell], before: set[str], after: int) -> Outcome:
    """What became of the cells, read from the database; those whose keys are in `before` had been done."""
    outcome = Outcome()
    for cell in cells:
        runs = store.runs_of(cell.key)
        if is_done(store, cell, after):
            (outcome.skipped if cell.key in before else outcome.done).append(cell)
        elif runs and runs[0]["status"] == "failed" and runs[0]["id"] > after:
            outcome.failed.append(cell)
        else:
            outcome.busy.append(cell)
    return outcome


def _launch(
    command: WorkerCommand, launching: Launching, workers: int, device: str | None, grid: str
) -> list[int] | None:
    """Run the workers to their end: exit codes; None where they go on without this process."""
    if launching.launcher == "ray":
        from bench.launchers.on_ray import run_on_ray

        return run_on_ray(command, workers, device, launching.ray_address)
    if launching.launcher == "slurm":
        return _launch_on_slurm(command, launching, workers, device, grid)
    return run_here(command, workers, device, click.echo)


def _launch_on_slurm(
    command: WorkerCommand, launching: Launching, workers: int, device: str | None, grid: str
) -> list[int] | None:
    from dataclasses import replace

    from bench.launchers.slurm import parse_slurm_options, submit

    settings = parse_slurm_options(launching.slurm)
    placed = replace(command, options=(*command.options, *write_options({"device": device})))
    array = submit(placed, workers, settings, log_folder(launching.logs, grid))
    click.echo(f"Slurm job {array.job}: {workers} workers, logs in {array.folder}.")
    if not launching.wait:
        click.echo(
            f"Come back later: bench status --grid {grid} says how far it is, squeue and `scancel {array.job}` work."
        )
        return None
    try:
        codes = array.wait()
        if any(codes):
            click.echo(f"{sum(map(bool, codes))} of {workers} jobs did not end well: see {array.folder}.", err=True)
        return codes
    except KeyboardInterrupt:
        click.echo(f"The jobs go on; `scancel {array.job}` ends them.", err=True)
        raise
