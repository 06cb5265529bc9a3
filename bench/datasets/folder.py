"""Pictures of the user's own, from a folder: no classes, any size, for training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import SUFFIXES, open_picture, pictures_below, say_what_is_in

HELD_OUT = 10


def picture_folder(name: str, split: str, size: int = 32) -> ImageSet:
    """Every picture in or below a folder, in a random order that is always the same; all have label 0.

    Colour pictures: the middle square, resized (bilinear, antialiased).

    Args:
        name: imagefolder:<folder>.
        split: "test", one of ten pictures by file name, or "train", the rest.
        size: height and width in pixels.

    Raises:
        ValueError: a name without a folder and, when it is read, a picture that cannot be.
        MissingData: there are fewer than ten pictures.
    """
    scheme, _, path = name.partition(":")
    if scheme != "imagefolder" or not path:
        raise ValueError(f"Expected imagefolder:<folder of pictures>, got {name!r}.")
    root = Path(path).expanduser().resolve()
    found = pictures_below(root)
    if len(found) < HELD_OUT:
        raise MissingData(
            f"Expected a folder of at least {HELD_OUT} pictures ({', '.join(SUFFIXES)}) at {root}, found {len(found)} "
            f"in and below it (hidden and system files do not count). There: {say_what_is_in(root)}. Put them "
            "there, or correct the name."
        )
    files = [file for k, file in enumerate(found) if (k % HELD_OUT == 0) == (split == "test")]
    Random(0).shuffle(files)  # so that the first of them are of every folder

    def read(rows: list[int]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda row: _picture(files[row], size), rows)))

    return ImageSet(
        name=root.name, labels=torch.zeros(len(files), dtype=torch.int64), class_names=("picture",),
        image_shape=(3, size, size), read=read,
        note=f"{split}: {'one' if split == 'test' else 'nine'} of ten pictures by name, {size}x{size}",
    )  # fmt: skip


def _picture(path: Path, size: int) -> Tensor:
    """uint8 (3, size, size)."""
    from PIL import Image, ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    upright = open_picture(path, size=2 * size, turn=True)
    return pil_to_tensor(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))
