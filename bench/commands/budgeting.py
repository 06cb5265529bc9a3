"""The options of what a run may cost: `--on`, `--budget`, `--part`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.cell import Cell
    from bench.run.rates import Rates

Command = Callable[..., Any]
CARDS = ("h100", "a100")
UNITS = {"min": 60.0, "h": 3600.0, "d": 86400.0}


def with_part(command: Command) -> Command:
    """Add the option --part."""
    return click.option(
        "--part",
        metavar="seeds=S,data_seeds=D,images=N",
        help="Only the first seeds and data seeds of each row, at most N pictures a cell; --budget prints one.",
    )(command)


def with_budget(command: Command) -> Command:
    """Add the options --on, --budget and --part."""
    for option in (
        click.option(
            "--budget",
            metavar="TIME",
            help="Run the part of the grid that fits: 90min, 2000h, 3d. Fewer seeds, then fewer pictures, then a "
            "weaker protocol; what is given up is printed. With --dry-run only that.",
        ),
        click.option(
            "--on",
            type=click.Choice(CARDS),
            help="Forecast for this card, by a model, in place of timing this device. With --dry-run or --budget.",
        ),
    ):
        command = option(command)
    return with_part(command)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The options, read.

    Attributes:
        on: the card that is forecast for; None is this device.
        seconds: the budget; None is none.
        part: of the grid.
    """

    on: str | None
    seconds: float | None
    part: str | None

    def check(self, *, dry_run: bool, limit: int | None) -> None:
        """Raise ValueError for options that do not go together."""
        if self.on and not dry_run and self.seconds is None:
            raise ValueError("--on says what a forecast is for. Add --dry-run or --budget.")
        if self.seconds is not None and (self.part or limit is not None):
            raise ValueError("--budget chooses the part of the grid itself. Leave --part and --limit out.")

    def rates(self, device: str | None, data_dir: Path | None, download: bool, *, compiled: bool = False) -> Rates:
        """Where the forecast's rates come from."""
        if self.on:
            from bench.run.cards import CARDS as known
            from bench.run.modelled import OnCard

            return OnCard(known[self.on], compiled=compiled)
        from bench.commands.run import loader
        from bench.run.rates import Here

        return Here(loader(device, data_dir, download, compiled=compiled))

    def choose(
        self,
        make: Callable[..., list[Cell]],
        protocol: str | None,
        *,
        grid: str,
        db: str,
        rates: Callable[[], Rates],
    ) -> tuple[list[Cell], str | None, str | None]:
        """The cells to run, and the protocol and the part that they are.

        Args:
            make: as `bench.commands.choose.chosen`, with everything given but protocol and part.
            protocol: that was asked for.
            grid: its name or its file.
            db: what is done there costs nothing.
            rates: () -> what an answer costs.
        """
        if self.seconds is None:
            return make(protocol=protocol, part=self.part), protocol, self.part
        from bench.grids import load_grid
        from bench.run.bill import Done
        from bench.run.budget import fit
        from bench.run.forecast import open_store
        from bench.run.progress import write_time

        found, source = load_grid(grid), rates()
        plan = fit(
            lambda other: make(protocol=other),
            protocol,
            self.seconds,
            source,
            Done(open_store(db)),
            gates=found.gates,
            weaker=found.has_protocols,
        )
        click.echo(
            f"Budget {write_time(self.seconds)} on {source.place}: {len(plan.cells)} cells, about "
            f"{write_time(plan.cost.seconds)} ({source.remark})."
        )
        for sentence in plan.given_up:
            click.echo(f"Given up: {sentence}")
        if not plan.given_up:
            click.echo("Nothing is given up.")
        same = f" --protocol {plan.protocol}" if plan.protocol else ""
        same += f" --part {plan.part}" if str(plan.part) else ""
        if same:
            click.echo(f"The same part again, in place of --budget:{same}")
        return plan.cells, plan.protocol, str(plan.part) or None


def take_budget(options: dict[str, Any]) -> Budget:
    """Take the options of `with_budget` out of all of a command's.

    Raises:
        ValueError: a budget that is none.
    """
    text = options.pop("budget")
    return Budget(on=options.pop("on"), seconds=None if text is None else parse_time(text), part=options.pop("part"))


def parse_time(text: str) -> float:
    """Seconds of 90min, 2000h or 3d. Raises ValueError for another text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h|d)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"Expected a time such as 90min, 2000h or 3d, got {text!r}.")
    return float(match[1]) * UNITS[match[2]]
