"""Is a database a SQLite file on a network file system? Then several hosts cannot share it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sqlalchemy import URL

from bench.store.database import StoreError, parse_url, sqlite_path
from bench.store.store import Store

NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "pvfs", "orangefs")
MOUNTS = Path("/proc/mounts")


def check_shareable(url_or_path: str | os.PathLike[str]) -> None:
    """Refuse a SQLite file on a network file system, for processes on several hosts.

    Raises:
        StoreError: it is one; the message says why and what to use.
    """
    url = parse_url(url_or_path)
    if kind := _is_on_network(url):
        raise StoreError(
            f"{sqlite_path(url)} is a SQLite file on a network file system ({kind}): hosts do not see each other's "
            "locks there, and the file would be damaged. Give --db a PostgreSQL database, or each host a file of its "
            "own and join them with `bench merge`. If all workers are on this one host, say so with --one-host."
        )


def check_alone(store: Store) -> None:
    """Refuse a SQLite file on a network file system that another host works on now.

    Raises:
        StoreError: it does; the message says who.
    """
    if not _is_on_network(store.url):
        return
    here = f"{socket.gethostname()}:"
    for claim in store.claims():
        if claim["live"] and not claim["holder"].startswith(here):
            raise StoreError(
                f"{store.where} is a SQLite file on a network file system, and {claim['holder']} works on it now: "
                "hosts do not see each other's locks there, and the file would be damaged. Wait until that has ended, "
                "or give --db a PostgreSQL database (docs/cluster.md)."
            )


def _is_on_network(url: URL) -> str | None:
    """The type of the network file system that a SQLite file lies on; None elsewhere."""
    path = sqlite_path(url)
    kind = None if path is None else find_file_system(path)
    found = kind is not None and kind.removeprefix("fuse.").startswith((*NETWORK, "sshfs"))
    return kind if found else None


def find_file_system(path: Path) -> str | None:
    """The type of the file system that a path lies on, such as ext4 or nfs4; None where that is unknown."""
    try:
        lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    place = path.resolve()
    mounts = [(fields[1].replace("\\040", " "), fields[2]) for fields in lines if len(fields) > 2]
    over = [(len(Path(at).parts), n, kind) for n, (at, kind) in enumerate(mounts) if place.is_relative_to(at)]
    return max(over)[2] if over else None
