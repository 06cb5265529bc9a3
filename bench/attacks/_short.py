"""Attacks cut short for a smoke run: what no field of a cell limits. Never for a number that means anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_MOST: ContextVar[int | None] = ContextVar("most", default=None)


@contextmanager
def cut_short(most: int) -> Iterator[None]:
    """While it lasts, searches of gates, PGD on the bare classifier and AutoAttack take at most `most` steps."""
    token = _MOST.set(most)
    try:
        yield
    finally:
        _MOST.reset(token)


def at_most(count: int) -> int:
    """`count`, or fewer where attacks are cut short."""
    most = _MOST.get()
    return count if most is None else min(count, most)


def shorten(library: Any) -> None:
    """Cut an instance of the AutoAttack library short, where attacks are: steps, draws, targets and queries."""
    if _MOST.get() is None:
        return
    for part in (library.apgd, library.apgd_targeted, library.fab):
        part.n_iter = at_most(part.n_iter)
        if hasattr(part, "n_iter_orig"):
            part.n_iter_orig = max(part.n_iter, 3)  # what a run in L1 divides among three radii
        if hasattr(part, "n_target_classes"):
            part.n_target_classes = at_most(part.n_target_classes)
    library.apgd.eot_iter = at_most(library.apgd.eot_iter)
    library.square.n_queries = at_most(library.square.n_queries)
