"""How a training loop reports: one call a step."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, float], None]
"""(what is trained, steps done, steps in all, loss) -> None."""


def silent(what: str, done: int, total: int, loss: float) -> None:
    """The progress callback that says nothing."""
