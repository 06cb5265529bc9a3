"""The command that all launchers start: one `bench worker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STOPPED = 130  # the exit code of a worker that was asked to end and gave its claim back


@dataclass(frozen=True, kw_only=True)
class WorkerCommand:
    """`bench worker` with its options.

    Attributes:
        options: its options, but the database.
        db: path or URL of the database. It travels in the environment, because other users see command lines and a
            URL may hold a password.
        folder: where it runs, where that folder exists.
    """

    options: tuple[str, ...]
    db: str
    folder: str | None = None

    def start(
        self, more: Sequence[str] = (), *, environment: Mapping[str, str] | None = None, piped: bool = False
    ) -> subprocess.Popen[str]:
        """Start a worker, which ends when this process ends.

        Args:
            more: more options.
            environment: variables beside those of this process.
            piped: give its lines to the caller, instead of printing them where this process does.
        """
        words = [sys.executable, "-m", "bench.cli", "worker", *self.options, "--with-parent", *more]
        # A signal to all processes of a job is the starter's business; the mask is inherited.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        try:
            return subprocess.Popen(
                words,
                env={**os.environ, "BENCH_DB": self.db, "PYTHONUNBUFFERED": "1", **(environment or {})},
                cwd=self.folder if self.folder and os.path.isdir(self.folder) else None,
                text=True,
                start_new_session=True,
                stdout=subprocess.PIPE if piped else None,
                stderr=subprocess.STDOUT if piped else None,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def stop(child: subprocess.Popen[str], seconds: float = 60.0) -> int:
    """Let a worker give its claim back and end; it is killed where that takes longer than `seconds`."""
    if child.poll() is None:
        child.terminate()
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
