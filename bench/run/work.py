"""What a process needs to share cells with others: who watches, what came of it, the rules, and the heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from torch import Tensor

from bench.attacks.base import Trace
from bench.cell import Cell
from bench.store import Claim, LostClaim, Store, StoreError

BEATS = 10  # in one lease


class Watcher(Protocol):
    """Is told what happens; the progress display of the command line is one."""

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins (or is found done)."""

    def show_images(self, done: int, total: int) -> None:
        """Images of the cell that are finished."""

    def show_step(self, attack: str, step: int) -> None:
        """An attack took a step."""

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """A cell ended, or something is to be said of it.

        Args:
            cell: the cell.
            status: done, skipped (done before), elsewhere (by another process meanwhile), failed, busy; also retried,
                waiting, anew, continued and dropped, after which the cell goes on.
            text: a line about it.
        """


@dataclass
class Outcome:
    """What `run_cells` did: cells by how they ended.

    Attributes:
        done: measured now; this process wrote the summary.
        skipped: measured before.
        elsewhere: finished by other processes meanwhile.
        busy: left to other processes that are running them.
        failed: ended by an error, which the database keeps.
    """

    done: list[Cell] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)
    elsewhere: list[Cell] = field(default_factory=list)
    busy: list[Cell] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a process shares the work with others.

    Attributes:
        retries: how often a cell that failed is tried again.
        wait: wait for what other processes hold; else leave it, as busy.
        lease: seconds that a claim lasts without a heartbeat.
        take_over: do not wait for the end of a lease whose holder has stopped beating.
        after: runs up to this number do not count, finished or not: they are measured again.
        poll: seconds between two looks at what others hold.
        cell_timeout: minutes that the code of a cell may run in this process; None is without end.
        save_every: minutes between two savings of an attack that has not finished.
    """

    retries: int = 0
    wait: bool = True
    lease: float = 120.0
    take_over: bool = False
    after: int = 0
    poll: float = 1.0
    cell_timeout: float | None = None
    save_every: float = 10.0


class Heart:
    """Extends the claim that this process works under, from a thread of its own."""

    def __init__(self, store: Store, lease: float) -> None:
        self._store, self._lease = store, lease
        self._claim: Claim | None = None
        self._lost, self._end = False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    @contextmanager
    def keep(self, claim: Claim) -> Iterator[None]:
        """Extend this claim while the block lasts."""
        self._lost, self._claim = False, claim
        try:
            yield
        finally:
            self._claim = None

    def check(self) -> None:
        """Raise LostClaim where another process has taken the claim over."""
        if self._lost:
            raise LostClaim("The lease of this unit has ended and another process took it over: it is dropped here.")

    def _beat(self) -> None:
        while not self._end.wait(self._lease / BEATS):
            claim = self._claim
            if claim is None:
                continue
            try:
                lost = not self._store.extend(claim, self._lease)
            except StoreError:  # locked or away: the next beat tries again
                continue
            if lost and claim is self._claim:
                self._lost = True


class WatchedTrace(Trace):
    """A trace that also tells a watcher about every step, and stops an attack whose claim is lost."""

    def __init__(self, tell: Callable[[str, int], None], check: Callable[[], None]) -> None:
        super().__init__()
        self._tell, self._check = tell, check

    def point(self, attack: str, step: int, image_ids: Tensor, loss: Tensor, correct: Tensor) -> None:
        self._check()
        super().point(attack, step, image_ids, loss, correct)
        self._tell(attack, step)
