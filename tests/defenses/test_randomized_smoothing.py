"""Randomized smoothing: the vote's probability on a linear classifier, and its fields."""

import pytest
import torch
from torch import Tensor, nn

from defenses.noise import Noise
from defenses.randomized_smoothing import RandomizedSmoothing


class Threshold(nn.Module):
    """Class 1 where the mean of the image exceeds 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        margin = 40 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack((-margin, margin), 1)


def test_vote_shares_are_the_gaussian_probability() -> None:
    """mean(x) + sigma N / 2 exceeds 1/2 with probability Phi(2 (mean(x) - 1/2) / sigma)."""
    n, sigma = 20_000, 0.25
    images = torch.full((1, 1, 2, 2), 0.55, dtype=torch.float64)
    model = RandomizedSmoothing(sigma=sigma, runs=n).defend(Threshold())
    with torch.no_grad():
        share = model(images, Noise(0, torch.arange(1))).exp()[0, 1]
    expected = torch.special.ndtr(torch.tensor(2 * 0.05 / sigma, dtype=torch.float64))
    assert abs(share - expected) < 4 * (expected * (1 - expected) / n).sqrt()


def test_gradient_is_that_of_the_mean_softmax() -> None:
    images = torch.full((2, 1, 2, 2), 0.55, dtype=torch.float64, requires_grad=True)
    defense, noise = RandomizedSmoothing(runs=8), Noise(0, torch.arange(2))
    (gradient,) = torch.autograd.grad(defense.defend(Threshold())(images, noise)[:, 1].sum(), images)
    copies = images.repeat(8, 1, 1, 1)
    noisy = copies + 0.25 * noise.split(8).normal(copies, step=0)
    mean = Threshold()(noisy).softmax(-1).unflatten(0, (8, 2)).mean(0)
    (expected,) = torch.autograd.grad(mean[:, 1].log().sum(), images)
    assert torch.allclose(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("fields", [{"sigma": 0.0}, {"n0": 0}, {"n": 0}, {"alpha": 1.0}])
def test_ranges_are_named(fields: dict) -> None:
    with pytest.raises(ValueError, match="Expected sigma > 0, n0 >= 1, n >= 1 and alpha in"):
        RandomizedSmoothing(**fields)
