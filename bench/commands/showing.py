"""The options that say how much a run shows, and which file keeps it."""

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


def take_showing(options: dict[str, Any]) -> Any:
    """Take the options of `with_showing` out of all of a command's; a `bench.run.display.Showing`."""
    from bench.run.display import Showing

    log = options.pop("log")
    if log is not None and not log.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {log.absolute().parent} for --log {log.name}. Create it.")
    return Showing(verbose=options.pop("verbose"), log=log)
