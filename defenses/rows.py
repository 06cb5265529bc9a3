"""How many rows of a defense go through its networks at once: the one place that decides it, and that remembers.

On a GPU the bytes of a row are measured on a few rows, and as many go together as the free memory holds. Everywhere
running out of memory halves the rows, after what the failed pass kept is released. Memory, not numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from defenses.again import again_in_backward
from defenses.memory import free_bytes, is_out_of_memory, peak_bytes

T = TypeVar("T")
SHARE = 0.5  # of the free memory: graphs that are kept, to be fast, take up to 0.4 (`diffusion.scan`)
FEW, MANY = 8, 32  # rows that are measured; where no more are asked about, a measurement is not worth its pass
Ask = Callable[[Tensor, slice], Tensor]


class Rows:
    """The rows that fit into a pass of one defense, with and without a gradient.

    Attributes:
        inner: rows inside a network, where a batch must stay whole; None is all.
        runs: runs behind an answer that go together, where a single image's do not fit; None is all.
    """

    def __init__(self) -> None:
        self._most: dict[bool, int] = {}
        self._measured: set[bool] = set()
        self._told: list[str] = []
        self.inner: int | None = None
        self.runs: int | None = None

    def most(self, *, gradient: bool) -> int | None:
        """Rows of a pass, at most; None where nothing is known."""
        return self._most.get(gradient)

    def measure(self, device: torch.device, work: Callable[[], object], rows: int, *, gradient: bool) -> None:
        """Measure the bytes of a row, once, and remember how many rows fit; only where the device can tell.

        Args:
            device: of the pass.
            work: a pass of so many rows whose answer nobody needs.
            rows: of it.
            gradient: whether it has one.
        """
        if device.type != "cuda" or gradient in self._measured:
            return
        self._measured.add(gradient)
        taken = 0
        try:
            with frugal():
                taken = peak_bytes(device, work)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if not taken:  # even these do not fit: halving finds what does
            release()
            return
        fitting = int(SHARE * free_bytes(device) * rows / taken)
        self._most[gradient] = max(1, min(fitting, self._most.get(gradient, fitting)))

    def back_off(self, rows: int, *, whole: int, runs: int, gradient: bool) -> bool:
        """Take half as much at once from now on; whether that was possible.

        Half the rows of a pass; where these must stay together, half of them inside the networks; where a single row
        does not fit, half of the runs behind its answer.

        Args:
            rows: that did not fit.
            whole: rows that must stay together; 0 is none.
            runs: behind an answer.
            gradient: whether the pass had one.
        """
        if rows <= whole:
            return self._halve_inside(whole)
        if rows <= 1:
            return self._halve_runs(runs)
        self._most[gradient] = max(whole, rows // 2)
        self._told.append(f"out of memory: {self._most[gradient]} rows a pass instead of {rows}")
        return True

    def _halve_inside(self, rows: int) -> bool:
        known = min(rows, self.inner or rows)
        if known <= 1:
            return False
        self.inner = known // 2
        self._told.append(f"out of memory: {self.inner} rows at once inside the networks, batches stay whole")
        return True

    def _halve_runs(self, runs: int) -> bool:
        known = min(runs, self.runs or runs)
        if known <= 1:
            return False
        self.runs = known // 2
        self._told.append(f"out of memory: {self.runs} runs of an answer together")
        return True

    def take_notes(self) -> list[str]:
        """What was made smaller since this was last asked."""
        told, self._told = self._told, []
        return told


_FRUGAL: list[bool] = []


@contextmanager
def frugal() -> Iterator[None]:
    """While it lasts, no graph is kept that can be computed again: what a row needs, not what it may take."""
    _FRUGAL.append(True)
    try:
        yield
    finally:
        _FRUGAL.pop()


def is_frugal() -> bool:
    """Whether graphs are not to be kept."""
    return bool(_FRUGAL)


def retried(work: Callable[[], T], halve: Callable[[], bool]) -> T:
    """The answer of `work`, which is done again with less at once as often as memory runs out.

    Args:
        work: may fail in any way.
        halve: make the next try smaller; whether that was possible.

    Raises:
        Exception: whatever `work` raised that is no lack of memory, or the lack that no smaller try cures.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error) or not halve():
                raise
        release()  # outside of the handler: the error held the frames, and these the graph


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_parts(ask: Ask, images: Tensor, most: int | None) -> Tensor:
    """The answer for images, at most so many at once.

    Args:
        ask: (images, their places) -> answers, row by row.
        images: (batch, channels, height, width).
        most: rows; None is all.
    """
    if most is None or len(images) <= most:
        return ask(images, slice(0, len(images)))
    parts = [slice(first, min(first + most, len(images))) for first in range(0, len(images), most)]
    if torch.is_grad_enabled() and images.requires_grad:
        return torch.cat([again_in_backward(lambda x, p=p: ask(x, p), images[p]) for p in parts])
    return torch.cat([ask(images[part], part) for part in parts])
