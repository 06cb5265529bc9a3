"""The user's own picture files: read at a data set's size, and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.datasets import DatasetInfo
from bench.datasets.pictures import open_picture


def read_picture(path: Path, info: DatasetInfo, remarks: list[str]) -> Tensor:
    """A picture file at the size and with the channels of a data set; what had to be done is remarked."""
    from PIL import Image

    if not path.is_file():
        raise LookupError(f"There is no picture {path}.")
    channels, height, width = info.image_shape
    picture = open_picture(path, turn=True)
    if picture.size != (width, height):
        side = min(picture.width / width, picture.height / height)
        box_width, box_height = side * width, side * height
        left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
        remarks.append(f"{path}: {picture.width}x{picture.height}, its middle resized to {width}x{height}")
        box = (left, top, left + box_width, top + box_height)
        picture = picture.resize(
            (width, height), Image.Resampling.LANCZOS if side > 1 else Image.Resampling.BICUBIC, box
        )
    levels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return torch.from_numpy(levels[None] if channels == 1 else np.ascontiguousarray(levels.transpose(2, 0, 1)))


def name_files(pictures: Sequence[Path]) -> list[str]:
    """A name for what is written of each picture: its own, with a number where two are called alike."""
    stems, used = [], {}  # type: list[str], dict[str, int]
    for path in pictures:
        used[path.stem] = used.get(path.stem, 0) + 1
        stems.append(path.stem if used[path.stem] == 1 else f"{path.stem}_{used[path.stem]}")
    return stems


def write_picture(image: Tensor, path: Path) -> None:
    """Write an image (channels, height, width) in [0, 1] as a PNG of 8 bits a channel."""
    from PIL import Image

    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(path)
