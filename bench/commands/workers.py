"""`bench run --workers N`: worker processes on this machine, a GPU or a share of the CPU's threads each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import click
import torch

from bench.cell import Cell
from bench.commands.report import tables
from bench.commands.run import stop_on_sigterm, write_summary
from bench.run.runner import is_done
from bench.run.work import Outcome
from bench.store import Store
from bench.store.smoke_mark import check_database


def count_workers(workers: int | None, device: str | None) -> int:
    """How many workers to start: as asked, else one for each GPU unless a device is named."""
    if workers is not None:
        return workers
    return max(1, torch.cuda.device_count()) if device is None and torch.cuda.is_available() else 1


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
    cells: Sequence[Cell], db: str, options: Sequence[str], workers: int, *, grid: str, device: str | None, force: bool
) -> Outcome:
    """Run the cells by worker processes, show their lines in one display, and print the table.

    Args:
        cells: what to run.
        db: path or URL of the database.
        options: of `bench worker`, but its database, its device and `--after`.
        workers: how many.
        grid: the name or the file of the grid.
        device: the device of all of them; None shares out the GPUs, or the CPU.
        force: run again what is done.
    """
    with stop_on_sigterm(), Store(db) as store:
        check_database(store, smoke=False)
        after = store.last_run() if force else 0
        before = {cell.key for cell in cells if is_done(store, cell, after)}
        command = [
            sys.executable,
            "-m",
            "bench.cli",
            "worker",
            "--one-host",
            *options,
            "--db",
            db,
            "--after",
            str(after),
        ]
        codes = _run_all([([*command, *_place(number, device)], workers) for number in range(workers)])
        outcome = Outcome()
        for cell in cells:
            if is_done(store, cell, after):
                (outcome.skipped if cell.key in before else outcome.done).append(cell)
            elif store.runs_of(cell.key) and store.runs_of(cell.key)[0]["status"] == "failed":
                outcome.failed.append(cell)
            else:
                outcome.busy.append(cell)
        click.echo(tables(store, grid, cells, "text"))
        click.echo(write_summary(outcome, cells, store, grid))
        lost = [f"worker {number} ended with code {code}" for number, code in enumerate(codes) if code not in (0, 1, 3)]
        if lost:
            click.echo(f"{'; '.join(lost)}. The same command continues.", err=True)
    return outcome


def _place(number: int, device: str | None) -> list[str]:
    if device is not None:
        return ["--device", device]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["--device", f"cuda:{number % gpus}" if gpus else "cpu"]


def _run_all(commands: Sequence[tuple[list[str], int]]) -> list[int]:
    """Run all commands at once and print what they print, with the worker's number; their exit codes."""
    started = [_start(command, share) for command, share in commands]
    readers = [threading.Thread(target=_show, args=(n, child), daemon=True) for n, child in enumerate(started)]
    for reader in readers:
        reader.start()
    try:
        return [child.wait() for child in started]
    except KeyboardInterrupt:
        for child in started:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in started:
            child.wait()
        raise
    finally:
        for reader in readers:
            reader.join(timeout=5.0)


def _start(command: list[str], share: int) -> subprocess.Popen[str]:
    threads = str(max(1, torch.get_num_threads() // share))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _show(number: int, child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        click.echo(f"worker {number}: {line.rstrip()}")
