"""Options that say where data sets, adversarial images and the device are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def with_place(command: Command) -> Command:
    """Add the options that say where data sets, images and the device are."""
    for option in reversed(
        (
            click.option(
                "--data-dir", type=click.Path(path_type=Path), envvar="BENCH_DATA_DIR", help="Folder of data sets."
            ),
            click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1. Default: a GPU if there is one."),
            click.option(
                "--evidence", metavar="DIR|URL", help="Where the adversarial images are. Default: beside the database."
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command
