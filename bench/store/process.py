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

    The boot, the host, the namespaces of process numbers and of time, the number, and when the process started.
    """
    started = _read_start(os.getpid())
    place = _read_place()
    return None if started is None or place is None else f"{place}/{os.getpid()}/{started}"


def is_gone(mark: str | None) -> bool:
    """Whether a process surely does not exist any more; False where this machine cannot tell."""
    if mark is None:
        return False
    place, pid, started = mark.rsplit("/", 2)
    if place != _read_place():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        pass
    found = _read_state(int(pid))
    return found is not None and (found[0] in ("Z", "X") or found[1] != started)


def _read_place() -> str | None:
    """The machine since its boot, by its name too (copies of a virtual machine share the rest), and its namespaces."""
    try:
        spaces = "/".join(str(os.stat(f"/proc/self/ns/{kind}").st_ino) for kind in ("pid", "time"))
        return f"{BOOT.read_text(encoding='utf-8').strip()}/{socket.gethostname()}/{spaces}"
    except OSError:
        return None


def _read_start(pid: int) -> str | None:
    found = _read_state(pid)
    return None if found is None else found[1]


def _read_state(pid: int) -> tuple[str, str] | None:
    """State of a process, and its start in clock ticks since boot; None where there is none, or it may not be seen."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return state, rest[18]
