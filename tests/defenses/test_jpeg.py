"""JPEG: what quantisation does to constant images, Pillow's bytes, refusals."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from defenses.jpeg import JPEG
from defenses.noise import Noise


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("quality", "quantum"), [(75, 8), (20, 40), (30, 27)])
def test_constant_grey_images_move_to_the_quantised_mean(channels: int, quality: int, quantum: int) -> None:
    """A block's mean is coded as 8 (grey - 128) in multiples of the table's first entry, 16 at quality 50."""
    grey = torch.arange(0, 256, 7)
    images = (grey / 255).view(-1, 1, 1, 1).expand(-1, channels, 16, 16)
    out = JPEG(quality=quality).build()(images, Noise(0, grey))
    coded = (8 * (grey - 128) / quantum).round() * quantum / 8 + 128
    assert (255 * out - coded.clamp(0, 255).view(-1, 1, 1, 1)).abs().max() <= 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 17)])
def test_equals_an_encoded_file(shape: tuple[int, int, int]) -> None:
    images = torch.rand(2, *shape)
    out = JPEG(quality=30).build()(images, Noise(0, torch.arange(2)))
    for image, found in zip(images, out, strict=True):
        file = io.BytesIO()
        PIL.Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy().squeeze()).save(
            file, "JPEG", quality=30
        )
        expected = np.atleast_3d(np.array(PIL.Image.open(file)))
        assert np.array_equal((255 * found).round().permute(1, 2, 0).numpy(), expected)


def test_clips_before_it_encodes() -> None:
    purify, noise = JPEG().build(), Noise(0, torch.arange(2))
    images = 3 * torch.rand(2, 1, 8, 8) - 1
    assert torch.equal(purify(images, noise), purify(images.clamp(0, 1), noise))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="quality in 1..100, got 0"):
        JPEG(quality=0)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        JPEG().build()(torch.zeros(1, 2, 8, 8), Noise(0, torch.arange(1)))
    with pytest.raises(ValueError, match="JPEG has no 'exact' gradient. It has: straight_through, transfer, none."):
        JPEG().defend(torch.nn.Identity())
