"""Data sets of the user's at a path: `<scheme>:<path>`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.info import DatasetInfo
from defenses.models.weights import sha256_of

OWN = "the user's own"
Read = Callable[[Path, str], ImageSet]
"""(path, split) -> the pictures."""


def path_of(name: str) -> Path:
    """The file or folder behind `<scheme>:<path>`. Raises MissingData where there is none."""
    path = Path(name.partition(":")[2]).expanduser()
    if not path.exists() or not name.partition(":")[2]:
        raise MissingData(
            f"Expected a file or folder at {path.absolute()} for the data set {name!r}, found none. A relative path "
            "counts from the folder where the command runs."
        )
    return path.resolve()


def own_info(name: str, read: Read) -> DatasetInfo:
    """The record of a data set at a path; its test pictures are looked at once for each state of the path.

    Args:
        name: `<scheme>:<path>`.
        read: reads it.
    """
    path = path_of(name)
    folders = (
        sorted(place for place in (*path.glob("*/"), *path.glob("*/*/")) if place.is_dir()) if path.is_dir() else []
    )
    state = tuple((place.stat().st_mtime_ns, place.stat().st_size) for place in (path, *folders))
    return _info(name, path, state, read)


@lru_cache(maxsize=8)
def _info(name: str, path: Path, state: tuple[tuple[int, int], ...], read: Read) -> DatasetInfo:
    test = read(path, "test")

    def of(split: str) -> ImageSet:
        return test if split == "test" else read(path, split)

    return info_of(name, of, title=path.stem, source=str(path), content=lambda: hash_path(path))


def hash_path(path: Path) -> str:
    """sha256 of a file; of a folder, of the names and sizes of the files in it."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [f"{file.relative_to(path).as_posix()} {file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def info_of(
    name: str,
    read: Callable[[str], ImageSet],
    *,
    content: Callable[[], str],
    title: str = "",
    source: str = "",
    licence: str = OWN,
) -> DatasetInfo:
    """The record of a data set that a function reads.

    Args:
        name: what a cell calls it.
        read: split -> its pictures.
        content: see `DatasetInfo`.
        title: what tables call it.
        source: where it comes from.
        licence: of its pictures.
    """
    test = read("test")
    return DatasetInfo(
        name=name, title=title, classes=test.classes, image_shape=test.image_shape, source=source or OWN,
        place="nothing (its name says where it is)", licence=licence,
        load=lambda folder, split, download: read(split), content=content,
    )  # fmt: skip
