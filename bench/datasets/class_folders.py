"""`imagefolder:PATH`: a folder of pictures for each class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import folders_in, open_picture, pictures_below, say_what_is_in

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = {"test": ("test", "val", "valid", "validation"), "train": ("train", "training")}
SPREAD = 100  # pictures whose size is looked at beforehand


def split_size(name: str) -> tuple[str, int | None]:
    """`imagefolder:<path>` as it is read, and the size that `imagefolder:<size>:<path>` asks for."""
    found = re.fullmatch(r"imagefolder:(\d+):(.+)", name)
    return (f"imagefolder:{found[2]}", int(found[1])) if found else (name, None)


def read_class_folders(path: Path, split: str, size: int | None = None) -> ImageSet:
    """The pictures of the folders in a folder; labels in the order of the folders' names, as torchvision's ImageFolder.

    Args:
        path: holds a folder for each class; or test/ (val/) and train/, which do.
        split: "test" or "train".
        size: the shorter side is resized to so many pixels, and the middle square taken; None leaves them as they are.

    Raises:
        MissingData: there are no class folders, or none of this split.
        ValueError: without a size, pictures of several sizes.
    """
    import torch

    root = _root(path, split)
    folders = folders_in(root)
    files = [(file, label) for label, folder in enumerate(folders) for file in pictures_below(folder)]
    if not files:
        raise MissingData(
            f"Expected folders of pictures, one for each class, in {root}, found {say_what_is_in(root)}. Move the "
            "pictures of each class into a folder with its name."
        )
    shape = (3, size, size) if size else _common_shape([file for file, _ in files][:: max(1, len(files) // SPREAD)])

    def read(rows: list[int]) -> Tensor:
        return torch.stack([_picture(files[row][0], shape, size) for row in rows])

    return ImageSet(
        name=root.name, labels=torch.tensor([label for _, label in files]),
        class_names=tuple(folder.name for folder in folders), image_shape=shape, read=read,
        note=f"class folders of {root.name}" + (f", {size}x{size}" if size else ""),
    )  # fmt: skip


def _root(path: Path, split: str) -> Path:
    if not path.is_dir():
        raise MissingData(f"Expected a folder of class folders at {path}, found a file.")
    named = {folder.name.lower(): folder for folder in folders_in(path)}
    if not set(named) <= {name for names in SPLITS.values() for name in names} or not named:
        if split != "test":
            raise MissingData(f"{path} has test pictures alone: no folder train/ in it.")
        return path
    found = next((named[name] for name in SPLITS[split] if name in named), None)
    if found is None:
        raise MissingData(f"Expected {split}/ in {path}, found {say_what_is_in(path)}.")
    return found


def _common_shape(files: list[Path]) -> tuple[int, int, int]:
    sizes = {open_picture(file).size: file for file in files}
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"Expected pictures of one size, found {a[0]}x{a[1]} in {first} and {b[0]}x{b[1]} in {second}. Say to "
            "which size they are brought: imagefolder:<size>:<path>, e.g. imagefolder:224:<path>."
        )
    width, height = next(iter(sizes))
    return 3, height, width


def _picture(file: Path, shape: tuple[int, int, int], size: int | None) -> Tensor:
    """uint8 (3, height, width)."""
    from PIL import Image, ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    picture = open_picture(file, turn=size is not None)
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    if picture.size != (shape[2], shape[1]):
        raise ValueError(
            f"Expected a picture of {shape[2]}x{shape[1]} in {file}, found {picture.size[0]}x{picture.size[1]}. Name "
            "the size: imagefolder:<size>:<path>."
        )
    return pil_to_tensor(picture)
