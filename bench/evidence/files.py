"""Files below a folder or a URL: written whole or not at all, never one over another."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any


def put_file(root: str, name: str, data: bytes) -> bool:
    """Whether a file now holds these bytes; one that holds others is left alone.

    Args:
        root: folder or URL.
        name: below it.
        data: what to write.
    """
    if is_url(root):
        system, path = _file_system(f"{root}/{name}")
        if system.exists(path):
            return bool(system.cat_file(path) == data)
        write_file(root, name, data)
        return True
    target = Path(root) / name
    if target.exists():
        return target.read_bytes() == data
    fresh = f"{name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    write_file(root, fresh, data)
    try:
        _link_or_move(Path(root) / fresh, target)
    except FileExistsError:  # another process was faster
        return target.read_bytes() == data
    finally:
        (Path(root) / fresh).unlink(missing_ok=True)
    return True


def write_file(root: str, name: str, data: bytes) -> None:
    """Write a file below a folder or a URL; it is on the disk when this returns."""
    if is_url(root):
        system, path = _file_system(f"{root}/{name}")
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, data)
        return
    target = Path(root) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove_file(root: str, name: str) -> None:
    """Remove a file below a folder or a URL."""
    if is_url(root):
        system, path = _file_system(f"{root}/{name}")
        system.rm_file(path)
    else:
        (Path(root) / name).unlink(missing_ok=True)


def read_file(address: str) -> bytes:
    """The bytes of a file by its whole path or URL; FileNotFoundError where there is none."""
    if not is_url(address):
        return Path(address).read_bytes()
    system, path = _file_system(address)
    return bytes(system.cat_file(path))


def is_url(address: str) -> bool:
    """Whether an address is a URL rather than a path."""
    return "://" in address


def _link_or_move(fresh: Path, target: Path) -> None:
    """Give a file its name, never another's; where the file system has no links, the last writer's stays."""
    try:
        os.link(fresh, target)
    except FileExistsError:
        raise
    except OSError:
        os.replace(fresh, target)


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    return system, path
