"""`bench train`: networks, with progress."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.training.progress import Progress


def train(
    name: str, output: Path | None, dataset: str | None, seed: int, effort: float, options: dict[str, Any]
) -> None:
    """Train what `name` stands for, with progress, and say where it lies.

    Args:
        name: of `bench.training.recipes.RECIPES`.
        output: folder; one of its own in weights/ where None.
        dataset: see `bench.training.recipes.train`.
        seed: of every random draw.
        effort: scales the number of steps.
        options: see `bench.training.recipes.train`.
    """
    from rich.console import Console

    from bench.training.recipes import train as make

    output = output or _folder(name, dataset, options)
    try:
        with _bars() if Console().is_terminal else _lines() as tell:
            make(name, output=output, dataset=dataset, seed=seed, effort=effort, progress=tell, **options)
    except KeyboardInterrupt:
        kept = output / "checkpoint.pt"
        after = f"goes on from {kept}" if dataset and kept.is_file() else "starts again"
        click.echo(f"Stopped. The same command {after}.", err=True)
        raise SystemExit(130) from None
    click.echo(f"Wrote {', '.join(sorted(path.name for path in output.iterdir()))} to {output}.")


def _folder(name: str, dataset: str | None, options: dict[str, Any]) -> Path:
    """What is trained differently lies in folders of its own."""
    of = Path(dataset.rpartition(":")[2]).resolve().name if dataset else ""
    usual = (None, "small", "none", "gaussian", "blocks")
    how = [
        str(options[key]) for key in ("scale", "network", "adversarial", "corruption") if options.get(key) not in usual
    ]
    return Path("weights") / re.sub(r"[^\w.]+", "_", "_".join(filter(None, (of, name, *how))))


@contextmanager
def _bars() -> Iterator[Progress]:
    """A bar that moves for each thing trained."""
    from rich.progress import Progress as Bars

    with Bars(transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int, loss: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, description=f"{what} (loss {loss:.4f})")

        yield tell


@contextmanager
def _lines(every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """For a log file: a line every so many seconds, and at the end of each thing trained."""
    begun: dict[str, tuple[float, int]] = {}
    losses: list[float] = []
    said = clock()

    def tell(what: str, done: int, total: int, loss: float) -> None:
        nonlocal said
        now = clock()
        since, first = begun.setdefault(what, (now, done))
        losses.append(loss)
        if now - said < every and done < total:
            return
        left = (now - since) / max(done - first, 1) * (total - done)
        mean = sum(losses) / len(losses)
        click.echo(f"{what}: step {done} of {total}, loss {mean:.4f} over {len(losses)}, {left / 60:.0f} min left")
        losses.clear()
        said = now

    yield tell
