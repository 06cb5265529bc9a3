"""An alarm that interrupts the thread that set it, wherever it is in Python code, and whatever it did to signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

AGAIN = 2.0  # seconds after which code that caught the exception is interrupted again
STUCK = 30  # times, before somebody is told


class TimeIsUp(BaseException):
    """Raised in the code that ran too long: `except Exception` does not catch it."""


class Alarm:
    """Raises TimeIsUp in the current thread after some seconds, while its `with` block lasts.

    A thread raises it between two instructions of Python, and in the main thread a signal wakes what sleeps or waits.

    Attributes:
        seconds: how long the block lasted, once it has ended.
    """

    def __init__(self, seconds: float | None) -> None:
        """`seconds`: None never rings."""
        self.seconds = 0.0
        self._after, self._begin = seconds, 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._target = threading.get_ident()
        self._main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")
        self._before: Any = None
        self._stopped = False

    def __enter__(self) -> Alarm:
        self._begin = time.monotonic()
        if self._after is not None:
            if self._main:
                self._before = signal.signal(signal.SIGALRM, self._wake)
            threading.Thread(target=self._ring, name="cell alarm", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ring no more, not even what is on its way. Whoever holds the block calls it once more behind it.

        The exception may come at the very first instruction of `__exit__`, and keep it from its work.
        """
        ringing = self._after is not None and not self._stopped
        while ringing:
            try:
                with self._lock:
                    self._ended.set()
                # What is on its way has to arrive. To take it back (with NULL) leaves an interpreter flag set, and
                # a call under sys.settrace, as in AutoAttack's check for dynamic defenses, never ends (Python 3.11).
                while True:
                    _raise_in(self._target, TimeIsUp)  # again, should a finalizer have swallowed it
                    time.sleep(0)
            except TimeIsUp:
                ringing = not self._ended.is_set()
        if not self._stopped:
            self._stopped = True
            self.seconds = time.monotonic() - self._begin
            if self._before is not None:
                signal.signal(signal.SIGALRM, self._before)

    def _wake(self, number: int, frame: FrameType | None) -> None:
        """A system call that waits returns when a handler of Python's has run; then the exception is raised."""
        if callable(self._before) and time.monotonic() - self._begin < (self._after or 0.0):
            self._before(number, frame)  # somebody else's alarm

    def _ring(self) -> None:
        assert self._after is not None
        wait, rung = max(self._after, 0.001), 0
        while not self._ended.wait(wait):
            with self._lock:
                if self._ended.is_set():
                    return
                _raise_in(self._target, TimeIsUp)
                if self._main and signal.getsignal(signal.SIGALRM) == self._wake:  # else nothing or a kill would follow
                    signal.pthread_kill(self._target, signal.SIGALRM)
            wait, rung = AGAIN, rung + 1
            if rung == STUCK and sys.__stderr__ is not None:
                told = (
                    f"A cell's time is up, and it is in a call that Python cannot interrupt. `kill -9 {os.getpid()}` "
                    "ends it; the same command without that cell continues."
                )
                print(told, file=sys.__stderr__, flush=True)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
