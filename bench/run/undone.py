"""What the code of a cell does to the process, undone: its streams, signal handlers, folder, settings and exits."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


class CellEnded(RuntimeError):
    """The code of a cell tried to end the whole program."""

    remedy = "Raise an error or return, instead of ending the program, in the defense, the attack or the network."


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
def undone() -> Iterator[None]:
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
