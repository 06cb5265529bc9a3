"""Gaussian noise: mean, variance, identity gradient."""

import pytest
import torch

from defenses.gaussian_noise import GaussianNoise
from defenses.noise import Noise


def test_mean_variance_and_gradient() -> None:
    n = 20_000
    images = torch.full((n, 1, 1, 1), 0.4, dtype=torch.float64, requires_grad=True)
    out = GaussianNoise(sigma=0.2).build()(images, Noise(0, torch.arange(n)))
    assert abs(out.mean() - 0.4) < 4 * 0.2 / n**0.5
    assert abs(out.var() / 0.04 - 1) < 4 * (2 / n) ** 0.5
    out.sum().backward()
    assert images.grad is not None and torch.equal(images.grad, torch.ones_like(images))


def test_range() -> None:
    with pytest.raises(ValueError, match="sigma >= 0, got -1.0"):
        GaussianNoise(sigma=-1.0)
