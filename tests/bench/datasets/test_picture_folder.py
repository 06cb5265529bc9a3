"""Pictures of the user's own: read as they look, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets import MissingData
from bench.datasets.folder import picture_folder


def test_a_folder_of_pictures(photographs: Path) -> None:
    name = f"imagefolder:{photographs}"
    train_set, test_set = picture_folder(name, "train"), picture_folder(name, "test")
    assert (len(train_set), len(test_set), train_set.name) == (21, 3, "photographs")
    seen = torch.cat([train_set.images(range(21)), test_set.images(range(3))])
    assert seen.shape == (24, 3, 32, 32) and len({tuple(x.flatten().tolist()) for x in seen}) == 24
    assert picture_folder(name, "test", size=8).images([0]).shape == (1, 3, 8, 8)


def test_what_is_wrong_with_a_folder_is_said(photographs: Path) -> None:
    with pytest.raises(ValueError, match="Expected imagefolder:<folder of pictures>, got 'imagefolder'"):
        picture_folder("imagefolder", "train")
    with pytest.raises(MissingData, match="at least 10 pictures .* found 0 in and below"):
        picture_folder(f"imagefolder:{photographs / 'cats'}", "train")
    (photographs / "00.png").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="Expected a picture in .*00.png, could not read it"):
        picture_folder(f"imagefolder:{photographs}", "test").images(range(3))


def test_pictures_that_pillow_would_spoil(photographs: Path) -> None:
    """16 bits a channel are refused; a picture taken with the camera on its side is turned."""
    name, side = f"imagefolder:{photographs}", photographs / "00.png"
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    Image.fromarray(pixels).save(side, exif=exif)
    seen = picture_folder(name, "test").images(range(3))
    assert any(torch.equal(x[:, :, 16:], torch.ones(3, 32, 16)) and not x[:, :, :16].any() for x in seen)
    Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(side)
    with pytest.raises(ValueError, match="Expected 8 bits a channel in .*00.png, found mode I;16"):
        picture_folder(name, "test").images(range(3))
