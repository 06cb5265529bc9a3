"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017): idx files in torchvision's layout or in a folder.

<data>/MNIST/raw/t10k-images-idx3-ubyte, <data>/FashionMNIST/raw/...   as torchvision lays them out
<data>/mnist/..., <data>/fashion_mnist/...                             the same files; plain, .gz or .xz
"""

from __future__ import annotations

import gzip
import lzma
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import say_what_is_in

FOLDERS = {"mnist": ("MNIST/raw", "mnist"), "fashion_mnist": ("FashionMNIST/raw", "fashion_mnist")}
STEMS = {"test": "t10k", "train": "train"}
PARTS = {"images": 3, "labels": 1}  # and the number of dimensions, which the file's name says too
COUNTS = {"test": 10_000, "train": 60_000}
OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".xz": lzma.open}
SIDE = 28


def idx_set(name: str, folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """MNIST or Fashion-MNIST from its idx files, whichever of their usual places they lie in.

    Args:
        name: "mnist" or "fashion_mnist".
        folder: holds one of `FOLDERS`.
        split: "test" or "train".
        class_names: in the order of the labels.

    Returns:
        None where neither file of the split is there.

    Raises:
        MissingData: one of its two files, or a part of its pictures, is not there.
        ValueError: a file is no idx file of 28x28 pictures or of their labels.
    """
    places = [folder / place for place in FOLDERS[name]]
    found = {part: _find(places, split, part) for part in PARTS}
    if not any(found.values()):
        return None
    images, labels = (_load(found[part], places, split, part) for part in PARTS)
    if images.shape != (COUNTS[split], SIDE, SIDE) or labels.shape != (COUNTS[split],):
        raise MissingData(
            f"Expected {COUNTS[split]:,} {split} pictures of {name}, {SIDE}x{SIDE}, and as many labels, found "
            f"{images.shape} in {found['images']} and {labels.shape} in {found['labels']}. Copy both files again."
        )
    if labels.max() >= len(class_names):
        raise ValueError(
            f"Expected labels 0..{len(class_names) - 1} in {found['labels']}, found {labels.max()}. Copy it again."
        )
    return ImageSet(
        name=name, labels=torch.from_numpy(labels.astype(np.int64)), class_names=class_names,
        image_shape=(1, SIDE, SIDE), read=lambda rows: torch.from_numpy(images[rows])[:, None],
        note=f"{split}, original order",
    )  # fmt: skip


def _find(places: list[Path], split: str, part: str) -> Path | None:
    """The first of a file's usual names that is there: Kaggle's copy has a dot where the original has a dash."""
    names = [f"{STEMS[split]}-{part}{mark}idx{PARTS[part]}-ubyte{end}" for mark in "-." for end in OPENERS]
    return next((path for place in places for name in names if (path := place / name).is_file()), None)


def _load(path: Path | None, places: list[Path], split: str, part: str) -> np.ndarray:
    if path is None:
        place = next((place for place in places if place.is_dir()), places[-1])
        raise MissingData(
            f"Expected {STEMS[split]}-{part}-idx{PARTS[part]}-ubyte (or .gz, .xz) in {place}, found "
            f"{say_what_is_in(place)}. Copy the rest."
        )
    return read_idx(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def read_idx(path: Path, changed: int = 0) -> np.ndarray:
    """The bytes of an idx file in their shape.

    Args:
        path: plain, .gz or .xz.
        changed: its time of change, so that another file of this name is read again.

    Raises:
        ValueError: it is cut off, or no idx file of bytes.
    """
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"Expected an idx file in {path}, could not read it ({error}). Copy it again.") from error
    dimensions = data[3] if len(data) >= 4 else 0
    shape = tuple(int.from_bytes(data[4 + 4 * k : 8 + 4 * k], "big") for k in range(dimensions))
    if data[:3] != b"\0\0\x08" or len(data) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise ValueError(
            f"Expected an idx file of bytes in {path} (0, 0, 8, number of dimensions, sizes, values), found "
            f"{len(data):,} bytes that begin with {data[:4]!r} and do not fit. Copy it again."
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
