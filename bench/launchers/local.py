"""Workers on this machine: a GPU or a share of the CPU's threads each, one display for all."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import torch

from bench.launchers.command import WorkerCommand, stop


def count_gpus() -> int:
    """How many GPUs torch can use here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def run_here(command: WorkerCommand, workers: int, device: str | None, show: Callable[[str], None]) -> list[int]:
    """Run workers until all have ended.

    Args:
        command: what to start.
        workers: how many.
        device: of all of them; None shares out the GPUs, or the CPU.
        show: is told each line that a worker prints, with its number.

    Returns:
        Their exit codes.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    started = [command.start(_place(n, device), environment=threads, piped=True) for n in range(workers)]
    readers = [threading.Thread(target=_read, args=(n, child, show), daemon=True) for n, child in enumerate(started)]
    for reader in readers:
        reader.start()
    try:
        return [child.wait() for child in started]
    except KeyboardInterrupt:
        for child in started:
            if child.poll() is None:
                child.terminate()
        for child in started:
            stop(child)
        raise
    finally:
        for reader in readers:
            reader.join(timeout=5.0)


def _place(number: int, device: str | None) -> list[str]:
    if device is not None:
        return ["--device", device]
    gpus = count_gpus()
    return ["--device", f"cuda:{number % gpus}" if gpus else "cpu"]


def _read(number: int, child: subprocess.Popen[str], show: Callable[[str], None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        show(f"worker {number}: {line.rstrip()}")
