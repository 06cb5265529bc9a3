"""A database that is away for a while is asked again, with growing waits; what is to be stored stays in memory."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from bench.store.database import StoreAway

P = ParamSpec("P")
R = TypeVar("R")
LOG = logging.getLogger("bench.store")  # without a handler of the user's, warnings go to stderr
FIRST, GROWTH, LONGEST = 0.2, 1.6, 20.0  # seconds; factor; seconds


def patient(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Let a method of a store be tried again for `patience` seconds while the database is locked or away."""

    @functools.wraps(method)
    def again(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        begin, wait = time.monotonic(), FIRST
        while True:
            try:
                return method(self, *args, **kwargs)
            except StoreAway as error:
                left = self.patience - (time.monotonic() - begin)
                if left <= 0:
                    raise
                if wait == FIRST:
                    LOG.warning("%s It is asked again for %.0f s.", error, left)
                time.sleep(min(wait, left))
                wait = min(wait * GROWTH, LONGEST)

    return again
