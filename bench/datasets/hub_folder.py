"""`hf:FOLDER`: a data set of Hugging Face's library `datasets` on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.image_set import ImageSet, MissingData

LABELS = ("label", "labels", "fine_label", "class")
SPLITS = {"test": ("test", "validation", "valid", "val"), "train": ("train",)}


def read_hub_folder(path: Path, split: str) -> ImageSet:
    """The pictures of a folder that `save_to_disk` wrote, or of one of parquet or picture files.

    Raises:
        MissingData: the library is not installed, or there is no such split.
        ValueError: a folder that it cannot read, that holds code, or has no columns of pictures and labels.
    """
    import torch

    table = _open(path, split)
    picture, label = _columns(table, path)
    names = getattr(table.features[label], "names", None)
    first = _pixels(table[0][picture], path, 0)

    def read(rows: list[int]) -> torch.Tensor:
        return torch.stack([_like(_pixels(table[row][picture], path, row), first, path, row) for row in rows])

    labels = torch.tensor(table[label][:])
    known = tuple(names or map(str, range(int(labels.max()) + 1)))
    return ImageSet(
        name=path.name, labels=labels, class_names=known, image_shape=tuple(first.shape), read=read,
        note=f"{table.split or split} of {path.name}",
    )  # fmt: skip


def _open(path: Path, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingData(
            f"Expected the library `datasets` to read {path}, found it not installed. pip install datasets"
        ) from error
    if any(path.glob("*.py")):
        raise ValueError(f"Expected a data set without code in {path}, found a script, which reading would run.")
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    try:
        found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))
    except Exception as error:  # the library's, pyarrow's and fsspec's own
        raise ValueError(f"Expected a data set of `datasets` in {path}, could not read it ({error}).") from error
    if not isinstance(found, datasets.DatasetDict):
        if split != "test":
            raise MissingData(f"{path} has one split alone.")
        return found
    name = next((name for name in SPLITS[split] if name in found), None)
    if name is None:
        raise MissingData(f"Expected a split {' or '.join(SPLITS[split])} in {path}, found {', '.join(found)}.")
    return found[name]


def _columns(table: Any, path: Path) -> tuple[str, str]:
    features = table.features
    pictures = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    classes = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    labels = [name for name in LABELS if name in features and name not in classes]
    labels = classes if len(classes) == 1 else [name for name in LABELS if name in classes] or labels
    if not pictures or not labels or not len(table):
        there = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items()) or "no column"
        raise ValueError(
            "Expected rows with a column of pictures (Image) and one of labels (ClassLabel, or called label) in "
            f"{path}, found {len(table)} rows of {there}."
        )
    return pictures[0], labels[0]


def _pixels(picture: Any, path: Path, row: int) -> Any:
    """uint8 (channels, height, width): one channel for grey pictures, else three."""
    import torch

    if picture is None:
        raise ValueError(f"Expected a picture in row {row} of {path}, found none.")
    if picture.mode not in ("L", "RGB"):
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"Expected 8 bits a channel in row {row} of {path}, found mode {picture.mode}.")
        picture = picture.convert("RGB")
    levels = np.atleast_3d(np.array(picture))
    return torch.from_numpy(levels.transpose(2, 0, 1).copy())


def _like(pixels: Any, first: Any, path: Path, row: int) -> Any:
    if pixels.shape != first.shape:
        raise ValueError(
            f"Expected pictures of one size in {path}, found {tuple(first.shape)} in row 0 and {tuple(pixels.shape)} "
            f"in row {row}. Resize them and save again."
        )
    return pixels
