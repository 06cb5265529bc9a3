"""Bit depth reduction: the levels, and the distance to them."""

import pytest
import torch

from defenses.bit_depth import BitDepth
from defenses.noise import Noise


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_nearest_of_the_levels(bits: int) -> None:
    images = torch.linspace(0, 1, 4097).reshape(1, 1, 1, -1)
    out = BitDepth(bits=bits).build()(images, Noise(0, torch.arange(1)))
    top = 2**bits - 1
    levels = torch.arange(2**bits) / top
    assert torch.equal(out.unique(), levels)
    assert torch.allclose((out - images).abs(), (images.unsqueeze(-1) - levels).abs().min(-1).values, atol=1e-6)


def test_range() -> None:
    with pytest.raises(ValueError, match="bits in 1..8, got 9"):
        BitDepth(bits=9)
