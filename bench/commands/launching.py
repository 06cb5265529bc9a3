"""`bench run --launcher`: where its workers run, from the options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
LAUNCHERS = ("local", "slurm", "ray")


def with_launching(command: Command) -> Command:
    """Add the options that say where the workers of `bench run` run."""
    for option in reversed(
        (
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                help="Worker processes. Default: one for each GPU of this machine, unless --device names one.",
            ),
            click.option(
                "--launcher",
                type=click.Choice(LAUNCHERS),
                default="local",
                show_default=True,
                help="Where the workers run: here, in a job array of Slurm, or in Ray.",
            ),
            click.option(
                "--slurm",
                multiple=True,
                metavar="NAME=VALUE,...",
                help="Options of sbatch by their long names: partition=gpu,time=240,gres=gpu:1. Repeatable.",
            ),
            click.option("--wait", is_flag=True, help="With Slurm: wait for the jobs, then print the table."),
            click.option(
                "--logs",
                type=click.Path(path_type=Path, file_okay=False),
                default=Path("bench-logs"),
                show_default=True,
                metavar="FOLDER",
                help="With Slurm: folder of the logs, which all nodes see. Each array gets a folder in it.",
            ),
            click.option(
                "--ray-address",
                envvar="RAY_ADDRESS",
                metavar="HOST:PORT",
                help="A Ray cluster that runs; `auto` is the one of this machine. Default: one of its own.",
            ),
            click.option(
                "--one-host",
                is_flag=True,
                help="All workers of --launcher run on this host, so that a SQLite file will do.",
            ),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Launching:
    """Where workers run.

    Attributes:
        workers: how many; None is what fits.
        launcher: one of LAUNCHERS.
        slurm: options of sbatch, as given.
        wait: wait for Slurm's jobs.
        logs: folder of Slurm's logs.
        ray_address: a running cluster of Ray.
        one_host: all of them run on this host.
    """

    workers: int | None
    launcher: str
    slurm: tuple[str, ...]
    wait: bool
    logs: Path
    ray_address: str | None
    one_host: bool

    @property
    def may_share_file(self) -> bool:
        """Whether all workers are on this host."""
        return self.one_host or not self._leaves_host

    @property
    def _leaves_host(self) -> bool:
        return self.launcher == "slurm" or (self.launcher == "ray" and self.ray_address is not None)

    def check(self, db: str) -> None:
        """Refuse options that contradict each other, and a database that the workers cannot share.

        Raises:
            ValueError: what is wrong, and what to do.
        """
        from bench.store.database import StoreError, parse_url, sqlite_path

        if (self.slurm or self.wait) and self.launcher != "slurm":
            raise ValueError("--slurm and --wait need --launcher slurm.")
        if not self.may_share_file and sqlite_path(parse_url(db)) is not None:
            raise StoreError(
                f"{db} is a SQLite file, which several hosts cannot share: on a network file system they do not see "
                "each other's locks, and elsewhere each has a file of its own. Give --db a PostgreSQL database "
                "(docs/cluster.md). If all workers run on this host, say --one-host."
            )


def take_launching(options: dict[str, Any]) -> Launching:
    """Take the options of `with_launching` out of all options."""
    return Launching(**{name: options.pop(name) for name in Launching.__dataclass_fields__})


def log_folder(logs: Path, grid: str) -> Path:
    """A new folder for the logs of one array: the grid's name and the time."""
    name = re.sub(r"\W+", "-", Path(grid).stem)
    return logs.resolve() / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"


def absolute(db: str) -> str:
    """The address of a database as it is found from any folder."""
    from bench.store.database import parse_url, sqlite_path

    path = sqlite_path(parse_url(db))
    return db if path is None else str(path.resolve())


def absolute_grid(grid: str) -> str:
    """A grid's name, or its file as it is found from any folder."""
    from bench.grids import is_file

    return str(Path(grid).expanduser().resolve()) if is_file(grid) else grid
