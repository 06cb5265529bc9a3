"""What `bench run` shows while it works: a live display on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.cell import Cell
from bench.printable import one_line


def make_watcher(console: Console | None = None) -> Lines | Live:
    """Make the display that fits the output: live on a terminal, one line a cell in a pipe or a log."""
    console = console or Console(file=sys.stdout)
    return Live(console) if console.is_terminal else Lines(console)


class Lines:
    """One line a finished cell."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._place, self._begin = "", 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins."""
        self._place, self._begin = f"[{number + 1}/{total}]", time.perf_counter()

    def show_images(self, done: int, total: int) -> None:
        """Not shown."""

    def show_step(self, attack: str, step: int) -> None:
        """Not shown."""

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """Print the line of a cell that ended; cells that were done before or elsewhere get none."""
        if status not in ("skipped", "elsewhere"):
            seconds = time.perf_counter() - self._begin
            mark = "" if status == "done" else f"{status}: "
            line = one_line(f"{self._place} {cell}: {mark}{text} ({seconds:.1f} s)")
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Live(Lines):
    """Cells done, current cell, images, attack step, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._cells = self._bars.add_task("cells", total=None)
        self._images = self._bars.add_task("images", total=None)
        self._step = ""

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins."""
        super().begin_cell(number, total, cell)
        self._bars.update(self._cells, completed=number, total=total)
        self._bars.reset(self._images, total=cell.num_images, description=self._describe(cell, ""))
        self._current = cell

    def show_images(self, done: int, total: int) -> None:
        """Show how many images of the cell are finished."""
        self._bars.update(self._images, completed=done, total=total)

    def show_step(self, attack: str, step: int) -> None:
        """Show the attack's current step."""
        self._bars.update(self._images, description=self._describe(self._current, f" step {step + 1}"))

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """Print the cell's line above the bars."""
        super().end_cell(cell, status, text)
        self._bars.advance(self._cells)

    def _describe(self, cell: Cell, step: str) -> str:
        return f"{cell.defense.name} / {cell.attack.name} {cell.threat.gradient}{step}"
