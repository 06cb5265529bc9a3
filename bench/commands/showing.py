"""The options that say how much is shown: of a run, and of a query."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def with_showing(command: Command) -> Command:
    """Add the options --verbose and --log."""
    for option in (
        click.option(
            "--log",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Add every line to this file, with its time, and the tracebacks of cells that fail.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more often how far it is, and print tracebacks."),
    ):
        command = option(command)
    return command


def with_limits(command: Command) -> Command:
    """Add the options --limit and --timeout of a query."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="A query that takes longer is stopped.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            default=100_000,
            show_default=True,
            metavar="N",
            help="At most N rows.",
        ),
    ):
        command = option(command)
    return command


def take_showing(options: dict[str, Any]) -> Any:
    """Take the options of `with_showing` out of all of a command's; a `bench.run.display.Showing`."""
    from bench.run.display import Showing

    log = options.pop("log")
    if log is not None and not log.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {log.absolute().parent} for --log {log.name}. Create it.")
    return Showing(verbose=options.pop("verbose"), log=log)
