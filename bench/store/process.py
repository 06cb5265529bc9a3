"""Who holds a claim, and whether that process is certainly gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


def describe_holder() -> str:
    """This process in words: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


def mark_process() -> str | None:
    """Name this process so that no other has the name, on any host or in any container; None where that is unknown.

    The boot, the namespace of process numbers, the number, and the time at which the process started.
    """
    started = _read_start(os.getpid())
    place = _read_place()
    return None if started is None or place is None else f"{place}/{os.getpid()}/{started}"


def is_gone(mark: str | None) -> bool:
    """Whether a process surely does not exist any more; False where this machine cannot tell."""
    if mark is None:
        return False
    place, pid, started = mark.rsplit("/", 2)
    return place == _read_place() and _read_start(int(pid)) != started


def _read_place() -> str | None:
    try:
        return f"{BOOT.read_text(encoding='utf-8').strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _read_start(pid: int) -> str | None:
    """Start time of a process, in clock ticks since boot; None where there is none, or only its remains (a zombie)."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else rest[18]
