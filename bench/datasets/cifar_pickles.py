"""CIFAR-10 and CIFAR-100 from pickles that are not the original files: repacked, or the test part alone.

torchvision reads the original files, by their md5, and only where all of them are there.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import say_what_is_in

FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
FILES = {
    ("CIFAR10", "test"): ("test_batch",),
    ("CIFAR10", "train"): tuple(f"data_batch_{part}" for part in range(1, 6)),
    ("CIFAR100", "test"): ("test",),
    ("CIFAR100", "train"): ("train",),
}
COUNTS = {"test": 10_000, "train": 50_000}
LABELS = {"CIFAR10": "labels", "CIFAR100": "fine_labels"}
ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip
"""What a pickle may name, so that no code in it runs."""


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module, name)


def cifar_pickles(kind: str, folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """CIFAR-10 or CIFAR-100 from its pickles, whatever wrote them.

    Args:
        kind: "CIFAR10" or "CIFAR100".
        folder: holds cifar-10-batches-py or cifar-100-python.
        split: "test" or "train".
        class_names: in the order of the labels.

    Returns:
        None where there is no such folder.

    Raises:
        MissingData: a file of the split, or a part of its pictures, is not there.
        ValueError: a file is no pickle of pictures and labels.
    """
    place = folder / FOLDERS[kind]
    if not place.is_dir():
        return None
    files = [place / name for name in FILES[kind, split]]
    if lost := [file.name for file in files if not file.is_file()]:
        raise MissingData(
            f"Expected {', '.join(FILES[kind, split])} in {place}, found {say_what_is_in(place)}: {', '.join(lost)} "
            "not there. Copy the rest."
        )
    parts = [_read(file, LABELS[kind], len(class_names)) for file in files]
    pixels, labels = np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts])
    if len(labels) != COUNTS[split]:
        raise MissingData(
            f"Expected {COUNTS[split]:,} {split} pictures of {kind} in {place}, found {len(labels):,}: a row of a part "
            "would be called one of the whole. Copy the rest."
        )
    return ImageSet(
        name=kind.lower(), labels=torch.from_numpy(labels), class_names=class_names, image_shape=(3, 32, 32),
        read=lambda indices: torch.from_numpy(pixels[indices]), note=f"{split}, in the order of the pickles",
    )  # fmt: skip


def _read(file: Path, key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3, 32, 32) uint8 and labels (n,) int64 of a pickle, whose keys may be text or bytes."""
    try:
        with file.open("rb") as stream:
            held = _Arrays(stream, encoding="latin1").load()
        named = {name.decode() if isinstance(name, bytes) else name: value for name, value in held.items()}
        pixels, labels = np.asarray(named["data"]), np.asarray(named[key] if key in named else named["labels"])
    except KeyError as error:
        raise ValueError(
            f"Expected data and {key} in {file}, found {', '.join(map(str, named))}: no {error}."
        ) from error
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(f"Expected a pickle of pictures and labels in {file}, could not read it ({error}).") from error
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels[0].size != 3072 or labels.shape != (len(pixels),):
        raise ValueError(
            f"Expected data of (n, 3072) 8-bit pixels and n labels in {file}, found {pixels.dtype} {pixels.shape} and "
            f"{labels.shape}. Take the original pickles."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"Expected labels 0..{classes - 1} in {file}, found {labels.min()}..{labels.max()}.")
    planes = pixels.transpose(0, 3, 1, 2) if pixels.shape[1:] == (32, 32, 3) else pixels.reshape(-1, 3, 32, 32)
    return planes, labels.astype(np.int64)
