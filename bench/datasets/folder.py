"""Pictures of the user's own, from a folder: no classes, any size, for training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from bench.datasets.image_set import ImageSet, MissingData

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's
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
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(found) < HELD_OUT:
        raise MissingData(
            f"Expected a folder of at least {HELD_OUT} pictures ({', '.join(SUFFIXES)}) at {root}, found {len(found)} "
            "in and below it. Put them there, or correct the name."
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

    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would clip them to 0..255
                raise ValueError(f"Expected 8 bits a channel in {path}, found mode {picture.mode}. Convert it.")
            picture.draft("RGB", (2 * size, 2 * size))  # a JPEG need not be decoded at full size
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            return pil_to_tensor(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected a picture in {path}, could not read it ({error}). Remove or replace it.") from error
