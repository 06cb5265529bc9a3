"""What is registered while something runs, so that a mistake of a user's file leaves no names behind."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Registered = tuple[Any, str, str]
"""A `Registry`, a name in it, and the module whose body registered it."""
_WATCHING: list[list[Registered]] = []


@contextmanager
def registrations() -> Iterator[list[Registered]]:
    """A list that holds what is registered while the context lasts, but not in a context inside."""
    seen: list[Registered] = []
    _WATCHING.append(seen)
    try:
        yield seen
    finally:
        _WATCHING.pop()


def tell(registry: Any, name: str) -> None:
    """Tell the innermost context that a registry has a new name."""
    if _WATCHING:
        _WATCHING[-1].append((registry, name, _running_module()))


def forget(registered: Iterable[Registered], module: str | None = None) -> None:
    """Take back what `registrations` saw.

    Args:
        registered: what it saw.
        module: only what this module's body registered: others, which it imported first, run once in a process. None is
            all.
    """
    for registry, name, running in registered:
        if module in (None, running):
            registry._items.pop(name, None)


def _running_module() -> str:
    """The name of the module whose body runs; "" where none does."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))
