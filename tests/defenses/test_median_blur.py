"""Median filter against SciPy's, which the authors used."""

import pytest
import torch
from scipy.ndimage import median_filter

from defenses.median_blur import MedianBlur
from defenses.noise import Noise


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12)])
def test_equals_scipy(size: int, shape: tuple[int, int, int]) -> None:
    images = torch.rand(2, *shape)
    out = MedianBlur(kernel_size=size).build()(images, Noise(0, torch.arange(2)))
    expected = median_filter(images.numpy(), size=(1, 1, size, size), mode="reflect")
    assert torch.equal(out, torch.from_numpy(expected))


def test_gradient_goes_through_the_chosen_pixel() -> None:
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    purify = MedianBlur().build()
    assert torch.autograd.gradcheck(lambda x: purify(x, Noise(0, torch.arange(2))), images)


def test_range() -> None:
    with pytest.raises(ValueError, match="kernel_size in 2..15, got 1"):
        MedianBlur(kernel_size=1)
