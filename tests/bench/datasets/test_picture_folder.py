"""Pictures of the user's own: read as they look, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets import MissingData
from bench.datasets.folder import picture_folder
from bench.datasets.pictures import folders_in, open_picture, pictures_below


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
    """A picture taken with the camera on its side is turned."""
    name, side = f"imagefolder:{photographs}", photographs / "00.png"
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    Image.fromarray(pixels).save(side, exif=exif)
    seen = picture_folder(name, "test").images(range(3))
    assert any(torch.equal(x[:, :, 16:], torch.ones(3, 32, 16)) and not x[:, :, :16].any() for x in seen)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled(kind: str, tmp_path: Path) -> None:
    """0x8000 is a half; clipped to 8 bits it would be white."""
    Image.fromarray(np.full((32, 32), 0x8000, dtype=np.uint16)).save(tmp_path / "x", kind)
    assert np.asarray(open_picture(tmp_path / "x")).tolist() == np.full((32, 32, 3), 128).tolist()


def test_32_bits_are_refused(tmp_path: Path) -> None:
    for name, pixels in (("float", np.zeros((4, 4), np.float32)), ("int", np.full((4, 4), 1 << 20, np.int32))):
        Image.fromarray(pixels).save(tmp_path / name, "TIFF")
        with pytest.raises(ValueError, match=f"8 or 16 bits a channel in .*{name}, found mode"):
            open_picture(tmp_path / name)


HIDDEN = (".DS_Store", "._01.png", "Thumbs.db", ".ipynb_checkpoints/00-checkpoint.png", ".Trash/00.png",
          "__MACOSX/._00.png", "@eaDir/00.png/SYNOPHOTO_THUMB.jpg", "$RECYCLE.BIN/a.png", ".Trash-1000/files/b.png",
          "dogs/.hidden/c.png", "desktop.ini")  # fmt: skip


def test_hidden_and_system_files_are_no_pictures_and_no_classes(photographs: Path) -> None:
    before = pictures_below(photographs)
    for name in HIDDEN:
        (photographs / name).parent.mkdir(parents=True, exist_ok=True)
        (photographs / name).write_bytes(b"\0\0\0\1Bud1")
    (photographs / "folder.png").mkdir()
    assert pictures_below(photographs) == before and len(before) == 24
    assert [path.name for path in folders_in(photographs)] == ["dogs", "folder.png"]
    assert len(picture_folder(f"imagefolder:{photographs}", "train")) == 21


def test_a_hidden_folder_that_the_user_names_is_read(photographs: Path, tmp_path: Path) -> None:
    photographs.rename(tmp_path / ".data")
    assert len(picture_folder(f"imagefolder:{tmp_path / '.data'}", "train")) == 21


@pytest.mark.parametrize("cut", [0, 30, 200])
def test_a_truncated_picture_is_named(cut: int, photographs: Path) -> None:
    content = (photographs / "00.png").read_bytes()
    (photographs / "00.png").write_bytes(content[:cut])
    with pytest.raises(ValueError, match="Expected a picture in .*00.png, could not read it"):
        picture_folder(f"imagefolder:{photographs}", "test").images(range(3))
