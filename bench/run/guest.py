"""The code of a cell is a guest in the process: its exits and hangs end the cell alone, and what it changes is undone.

What this cannot stop: a crash of compiled code, a kill from outside, and a call into compiled code that never comes
back to Python, which neither a signal nor an exception reaches. `bench run --workers N` survives the first two.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

import torch

from bench.run.alarm import Alarm, TimeIsUp

Handler = Callable[[int, FrameType | None], Any]


class CellEnded(RuntimeError):
    """The code of a cell tried to end the whole program."""

    remedy = "Raise an error or return, instead of ending the program, in the defense, the attack or the network."


class CellTimeout(RuntimeError):
    """The code of a cell ran longer than it may."""

    remedy = (
        "Give more with --cell-timeout MINUTES, or find out where it hangs: bench show prints the traceback. Its "
        "finished batches are kept."
    )


class Guests:
    """Runs the code of cells; one for a run. Use it in a `with` statement, which listens for Ctrl-C.

    Args:
        minutes: how long the code of one cell may run in this process; None is without end.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._minutes = minutes
        self._spent: dict[str, float] = {}
        self._asked = threading.current_thread() is not threading.main_thread()  # then signals are not seen here
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Guests:
        if not self._asked:
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note_then(handler))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note_then(self, handler: Handler) -> Handler:
        def note(number: int, frame: FrameType | None) -> Any:
            self._asked = True
            return handler(number, frame)

        return note

    @contextmanager
    def hosting(self, key: str) -> Iterator[None]:
        """Run code of the cell `key` in this block.

        Raises:
            CellEnded: it called sys.exit, os._exit or os.abort, or raised KeyboardInterrupt by itself.
            CellTimeout: its time is up.
            KeyboardInterrupt: the user asked for it.
        """
        alarm = Alarm(None if self._minutes is None else 60 * self._minutes - self._spent.get(key, 0.0))
        try:
            with _undone(), alarm:
                yield
        except TimeIsUp as error:
            raise CellTimeout(f"The cell ran longer than its {self._minutes:g} minutes and was interrupted.") from error
        except SystemExit as error:
            raise CellEnded(f"The code of the cell ended the program with exit code {error.code!r}.") from error
        except KeyboardInterrupt as error:
            if self._asked:
                raise
            raise CellEnded("The code of the cell raised KeyboardInterrupt, and nobody pressed Ctrl-C.") from error
        except Exception:
            raise
        except BaseException as error:
            raise CellEnded(f"The code of the cell raised {type(error).__name__}: {error}") from error
        finally:
            self._spent[key] = self._spent.get(key, 0.0) + alarm.seconds


class _Prints(io.TextIOBase):
    """Where a guest's prints go: beside our own output, which others may read; closing it closes nothing."""

    def __init__(self, to: Any) -> None:
        self._to = to

    def write(self, text: str) -> int:
        with suppress(ValueError, OSError, UnicodeError):
            self._to.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(ValueError, OSError):
            self._to.flush()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._to, "encoding", None) or "utf-8"


@contextmanager
def _undone() -> Iterator[None]:
    """Undo what the block changes in the process: streams, handlers, folder, environment, limits, torch's settings."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Prints(streams[1]), _Prints(streams[1])
    restore = [_keep_handlers(), _keep_folder(), _keep_settings(), _keep_exits()]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for undo in restore:
            undo()


def _keep_handlers() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    kept = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def undo() -> None:
        for number, handler in kept.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)

    return undo


def _keep_folder() -> Callable[[], None]:
    folder, environment = os.getcwd(), dict(os.environ)

    def undo() -> None:
        with suppress(OSError):
            os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)

    return undo


def _keep_settings() -> Callable[[], None]:
    limit, filters = sys.getrecursionlimit(), warnings.filters[:]
    dtype, graph, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    precision, exact = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cudnn.allow_tf32

    def undo() -> None:
        with suppress(RecursionError):
            sys.setrecursionlimit(limit)
        warnings.filters[:] = filters  # type: ignore[index]
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(graph)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(exact)
        torch.backends.cudnn.allow_tf32 = tf32

    return undo


def _keep_exits() -> Callable[[], None]:
    """Until it is undone, os._exit and os.abort in this process end the cell; a fork of it may end as it likes."""
    real, pid = {name: getattr(os, name) for name in ("_exit", "abort")}, os.getpid()

    def refuse(name: str) -> Callable[..., Any]:
        def ended(*arguments: Any) -> Any:
            if os.getpid() != pid:
                return real[name](*arguments)
            raise CellEnded(f"The code of the cell ended the program with os.{name}{arguments}.")

        return ended

    for name in real:
        setattr(os, name, refuse(name))

    def undo() -> None:
        for name, function in real.items():
            setattr(os, name, function)

    return undo
