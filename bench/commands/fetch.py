"""`bench fetch`: everything that a grid needs, as far as it can be had without a person."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bench.commands.needs import needs
from bench.datasets import dataset_info, load_dataset
from defenses.models.download import fetch as download
from defenses.models.sources import Source


def fetch(what: str) -> bool:
    """Download the data sets and weights of a grid, or one network or data set; return whether all of it is here."""
    datasets, files = needs(what)
    failed = [name for name in datasets if not _fetch_dataset(name)]
    failed += [name for name, source in files.items() if not _fetch_weights(name, source)]
    click.echo(f"Missing: {', '.join(failed)}." if failed else f"All that {what} needs is here.")
    return not failed


def _fetch_dataset(name: str) -> bool:
    try:
        load_dataset(name, download=dataset_info(name).downloads)
    except (LookupError, RuntimeError, OSError) as error:  # torchvision's downloader raises all of them
        click.echo(f"{name}: {error}", err=True)
        return False
    click.echo(f"{name}: here")
    return True


def _fetch_weights(name: str, source: Source) -> bool:
    try:
        with _make_bar() as bar:
            task = bar.add_task(name, total=None, start=False)

            def tell(done: int, total: int | None) -> None:
                bar.start_task(task)
                bar.update(task, completed=done, total=total)

            path = download(source, tell)
    except (LookupError, ValueError) as error:
        click.echo(f"{name}: {error}", err=True)
        return False
    click.echo(f"{name}: {path}")
    return True


def _make_bar() -> Progress:
    """A line that moves on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
