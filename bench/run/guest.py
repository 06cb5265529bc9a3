"""The code of a cell is a guest in the process: its exits and hangs end the cell alone, and what it changes is undone.

What this cannot stop: a crash of compiled code, a kill from outside, and a call into compiled code that never comes
back to Python, which neither a signal nor an exception reaches. `bench run --workers N` survives the first two.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from bench.run.alarm import Alarm, TimeIsUp
from bench.run.undone import CellEnded, undone
from defenses.precision import arithmetic

Handler = Callable[[int, FrameType | None], Any]


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
            with undone(), arithmetic():  # every number of a cell is float32's, whatever is set outside
                try:
                    with alarm:
                        yield
                finally:
                    alarm.stop()
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
