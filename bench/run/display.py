"""What `bench run` shows while it works: a live display on a terminal, lines elsewhere, and a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.cell import Cell
from bench.epsilon import epsilon_text
from bench.printable import one_line
from bench.report.labels import set_labels
from bench.run import progress
from bench.run.progress import always_shown

EVERY, OFTEN, FIRST = (
    60.0,
    10.0,
    10.0,
)  # seconds between two lines on a cell that runs, with --verbose, before the first


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What is shown, and where else it goes.

    Attributes:
        verbose: more often, and with the tracebacks of cells that fail.
        log: file to which every line is added, with its time; None is no file.
    """

    verbose: bool = False
    log: Path | None = None


def make_watcher(
    console: Console | None = None,
    cells: Sequence[Cell] = (),
    showing: Showing = Showing(),  # noqa: B008 - frozen
    *,
    gates: Sequence[str] = (),
    kind: type[Lines] | None = None,
) -> Lines:
    """Make the display that fits the output: live on a terminal, lines with their time in a pipe or a log.

    Args:
        console: where it is shown; None is standard output.
        cells: of the run, so that what differs between them can be named.
        showing: how much, and where else.
        gates: names of attacks whose quick cells get all validity gates, for the time left.
        kind: the display; None is the one that fits.
    """
    console = console or Console(file=sys.stdout)
    kind = kind or (Live if console.is_terminal else Lines)
    return kind(console, cells, showing, gates=gates)


def name_cells(cells: Sequence[Cell]) -> dict[str, str]:
    """Key -> the cell in words: the fields of defenses and attacks that differ within the run stand in brackets."""
    rows = [cell.row() | always_shown(cell) for cell in cells]
    set_labels(rows)
    names: dict[str, str] = {}
    for cell, row in zip(cells, rows, strict=True):
        defense, attack = (row.get(f"{part}_label") or row[part] for part in ("defense", "attack"))
        threat = f"{cell.threat.norm} {epsilon_text(cell.threat.epsilon)} {cell.threat.gradient}"
        names[cell.key] = f"{cell.dataset} {cell.classifier} {defense} {attack} ({threat})"
    for name in ("seed", "data_seed", "num_images", "draws", "batch_size", "tier"):
        values: dict[str, set[str]] = {}
        for cell in cells:
            values.setdefault(names[cell.key], set()).add(str(getattr(cell, name)))
        twins = {said for said, found in values.items() if len(found) > 1}
        names |= {c.key: f"{names[c.key]} {name}={getattr(c, name)}" for c in cells if names[c.key] in twins}
    return names


class Lines:
    """One line a finished cell, and now and then one on the cell that runs."""

    stamped = True

    def __init__(
        self,
        console: Console,
        cells: Sequence[Cell] = (),
        showing: Showing = Showing(),  # noqa: B008 - frozen
        *,
        gates: Sequence[str] = (),
    ) -> None:
        self.console, self.showing = console, showing
        try:
            self._names = name_cells(cells)
        except Exception:  # code of the user's: a name is not worth a run
            self._names = {}
        self._progress = progress.start(cells, gates)
        self._stack = ExitStack()
        self._log: TextIO | None = None
        self._place, self._begin, self._said = "", 0.0, 0.0
        self._step, self._total = "", 0

    def __enter__(self) -> Lines:
        if self.showing.log is not None:
            self._log = self._stack.enter_context(self.showing.log.open("a", encoding="utf-8"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Show a line, and add it to the log."""
        stamp = f"{datetime.now():%Y-%m-%d %H:%M:%S} "
        shown = text if not self.stamped else stamp + text
        self.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        self.note(text, stamp)

    def note(self, text: str, stamp: str | None = None) -> None:
        """Add text to the log alone."""
        if self._log is not None:
            self._log.write((stamp or f"{datetime.now():%Y-%m-%d %H:%M:%S} ") + text + "\n")
            self._log.flush()

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins."""
        self._place, self._begin, self._cell = f"[{number + 1}/{total}]", time.perf_counter(), cell
        self._said, self._step, self._total = self._begin + FIRST - self._pause, "", cell.num_images
        self._progress.begin(number, cell)
        if self.showing.verbose:
            self.note(f"{self._place} {one_line(self.name(cell))}: begins")

    def show_images(self, done: int, total: int) -> None:
        """Count the images of the cell that are finished."""
        self._progress.finish_images(done)
        self._step = ""
        self._tell()

    def show_step(self, attack: str, step: int) -> None:
        """Count the attack's steps."""
        self._progress.take_step(attack)
        taken, expected = self._progress.steps, self._progress.expected
        of = f" of {max(expected, taken)}" if expected else ""
        self._step = f"{attack} step {taken}{of}" if progress.is_step(attack) else attack
        self._tell()

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """Print the line of a cell that ended; cells that were done before or elsewhere get none."""
        if status == "done":
            self._progress.end()
        if status not in ("skipped", "elsewhere"):
            seconds = time.perf_counter() - self._begin
            mark = "" if status == "done" else f"{status}: "
            self.say(one_line(f"{self._place} {self.name(cell)}: {mark}{text} ({seconds:.1f} s)"))

    def name(self, cell: Cell) -> str:
        """The cell in words, with what differs between the cells of this run."""
        return self._names.get(cell.key) or str(cell)

    @property
    def where(self) -> str:
        """How far the current cell is, and what is left."""
        parts = [f"{self._progress.images} of {self._total} images", *filter(None, [self._step])]
        of_cell, of_run = self._progress.left()
        if of_run is not None:
            parts.append(f"about {progress.write_time(of_run)} left")
        elif of_cell is not None:
            parts.append(f"about {progress.write_time(of_cell)} left of this cell")
        return ", ".join(parts)

    @property
    def _pause(self) -> float:
        return OFTEN if self.showing.verbose else EVERY

    def _tell(self) -> None:
        """Say how far the cell is, now and then."""
        now = time.perf_counter()
        if now - self._said >= self._pause:
            self._said = now
            self.say(one_line(f"{self._place} {self.name(self._cell)}: {self.where}"))


class Live(Lines):
    """Cells done, current cell, images, attack step, elapsed and remaining time."""

    stamped = False

    def __init__(
        self,
        console: Console,
        cells: Sequence[Cell] = (),
        showing: Showing = Showing(),  # noqa: B008 - frozen
        *,
        gates: Sequence[str] = (),
    ) -> None:
        super().__init__(console, cells, showing, gates=gates)
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._bar = self._bars.add_task("", total=None)

    def __enter__(self) -> Live:
        super().__enter__()
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()
        super().__exit__(kind, error, tb)

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins."""
        super().begin_cell(number, total, cell)
        self._bars.reset(self._bar, total=1.0)
        self._tell()

    def _tell(self) -> None:
        text = one_line(f"{self._place} {self.name(self._cell)}: {self.where}").replace("[", r"\[")
        self._bars.update(self._bar, completed=self._progress.share, description=text)
