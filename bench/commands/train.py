"""`bench train`: the small networks, with progress."""

from __future__ import annotations

from pathlib import Path

import click


def train(name: str, output: Path, seed: int, effort: float) -> None:
    """Train what `name` stands for into `output`, and say where it lies."""
    from rich.console import Console
    from rich.progress import Progress

    from bench.train import train as make

    with Progress(console=Console(), transient=True) as bars:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int, loss: float) -> None:
            task = tasks.setdefault(what, -1)
            if task < 0:
                task = tasks[what] = bars.add_task(what, total=total)
            bars.update(task, completed=done, description=f"{what} (loss {loss:.4f})")  # type: ignore[arg-type]

        make(name, output=output, seed=seed, effort=effort, progress=tell)
    click.echo(f"Wrote {', '.join(sorted(path.name for path in output.iterdir()))} to {output}.")
