"""What has a known answer: Gaussian data with their exact noise prediction, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from defenses.diffusion.schedule import VPSchedule
from defenses.models.score_models import NetworkScore

MEAN, STD = 0.3, 0.5  # of the data, in [-1, 1] space
SCHEDULE = VPSchedule()


def gaussian_score(*, discrete: bool = False) -> NetworkScore:
    """The exact noise prediction for data N(MEAN, STD^2): at continuous times, or at the discrete levels."""
    table = torch.tensor([SCHEDULE.alpha_bar_at(i) for i in range(SCHEDULE.levels)], dtype=torch.float64)

    def network(x: Tensor, label: Tensor) -> Tensor:
        if discrete:
            a = table[label.long()].view(-1, 1, 1, 1)
            s = (1 - a).sqrt()
        else:
            t = (label / 999).view(-1, 1, 1, 1)
            a, s = SCHEDULE.alpha_bar(t), SCHEDULE.sigma(t)
        return s * (x - a.sqrt() * MEAN) / (a * STD**2 + s**2)

    return NetworkScore(network, (1, 1, 1))


def posterior_round_trip(mean: float, variance: float, alpha_bar: float) -> tuple[float, float]:
    """Mean and variance of x_0 ~ p(x_0 | x_t) for data N(MEAN, STD^2), where x_t noises an x of the given moments."""
    total = alpha_bar * STD**2 + 1 - alpha_bar
    gain = STD**2 * math.sqrt(alpha_bar) / total
    mean = MEAN + gain * math.sqrt(alpha_bar) * (mean - MEAN)
    return mean, STD**2 * (1 - alpha_bar) / total + gain**2 * (alpha_bar * variance + 1 - alpha_bar)


def flow_round_trip(x: Tensor, e: Tensor, alpha_bar: float) -> Tensor:
    """x noised with e, then carried back by the probability-flow ODE of data N(MEAN, STD^2), which is affine."""
    spread = math.sqrt(alpha_bar) * (x - MEAN) + math.sqrt(1 - alpha_bar) * e
    return MEAN + STD / math.sqrt(alpha_bar * STD**2 + 1 - alpha_bar) * spread


def assert_moments(x: Tensor, mean: float, variance: float, *, bias: float = 0.01) -> None:
    """The sample x has this mean and variance, to four standard errors and a relative discretisation bias."""
    n = x.numel()
    assert abs(x.mean() - mean) < 4 * math.sqrt(variance / n) + bias * math.sqrt(variance)
    assert abs(x.var() / variance - 1) < 4 * math.sqrt(2 / n) + bias


def assert_exact_gradient(function: Callable[[Tensor], Tensor], x: Tensor, *, h: float = 1e-6) -> None:
    """The gradient of a random read-out of `function` agrees with central finite differences, in float64."""
    generator = torch.Generator().manual_seed(1)
    x = x.double()
    readout, direction = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (function(leaf) * readout).sum().backward()
    ends = [(function(x + s * h * direction) * readout).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert leaf.grad is not None
    assert abs((leaf.grad * direction).sum() - numeric) < 1e-6 * abs(numeric) + 1e-8
