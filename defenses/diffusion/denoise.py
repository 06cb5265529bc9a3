"""A VP noise-prediction network in two other roles: a denoiser of data plus noise, and a score of the data.

In the [-1, 1] space, x_t / sqrt(alpha_bar) is data plus noise of standard deviation sigma = sqrt(1 / alpha_bar - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.models.score_models import DataScore, ScoreModel, times


def time_of_sigma(schedule: VPSchedule, sigma: Tensor) -> Tensor:
    """The time t with alpha_bar(t) = 1 / (1 + sigma^2), in float64.

    Args:
        schedule: of the network.
        sigma: standard deviation of the noise, >= 0, in units of [-1, 1] images.
    """
    slope = schedule.beta_max - schedule.beta_min
    log = torch.log1p(sigma.double() ** 2)
    return (2 * log) / (schedule.beta_min + torch.sqrt(schedule.beta_min**2 + 2 * slope * log))


def denoise(score: ScoreModel, y: Tensor, sigma: float | Tensor) -> Tensor:
    """The clean image expected behind y = x + sigma n: D(y, sigma) = y - sigma eps(y / sqrt(1 + sigma^2), t).

    Karras et al., NeurIPS 2022, arXiv:2206.00364, Table 1, VP column.

    Args:
        score: the noise-prediction network.
        y: (batch, channels, height, width), images in the [-1, 1] space plus noise.
        sigma: standard deviation of the noise in that space, one or (batch,), >= 0; 0.25 is t = 0.073, 0.5
            is t = 0.145.

    Returns:
        Shape of y, in the [-1, 1] space, not clipped.
    """
    if isinstance(sigma, Tensor):
        level = sigma.to(y.device, torch.float64).expand(len(y))
    else:  # made where it is needed: an upload would make the host wait
        level = torch.full((len(y),), sigma, dtype=torch.float64, device=y.device)
    t = time_of_sigma(score.schedule, level).to(y.dtype)
    column = level.to(y.dtype).view(-1, 1, 1, 1)
    return y - column * score.epsilon(y / torch.sqrt(1 + column**2), t)


def denoising_error(score: ScoreModel, x: Tensor, sigma: float | Tensor, n: Tensor) -> Tensor:
    """Mean over each image of (D(x + sigma n, sigma) - x)^2: small where the network finds x likely.

    Args:
        score: the noise-prediction network.
        x: (batch, channels, height, width), clean images in the [-1, 1] space.
        sigma: standard deviation of the noise in that space, one or (batch,), >= 0.
        n: standard normals, shape of x.

    Returns:
        (batch,).
    """
    scale = sigma.view(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
    return ((denoise(score, x + scale * n, sigma) - x) ** 2).mean((1, 2, 3))


@dataclass(frozen=True)
class FixedTimeScore:
    """A VP network at one time as a `DataScore`: the score of the data blurred by that time's noise.

    With s = sigma(t) / sqrt(alpha_bar(t)), in the [-1, 1] space, the score of the data plus N(0, s^2) at x is
    (E[x_0 | x] - x) / s^2 = -eps(sqrt(alpha_bar) x, t) / s (Tweedie; Efron, JASA 2011), and that of [0, 1] images
    twice as much.

    Attributes:
        network: the noise-prediction network.
        t: diffusion time, in (0, 1].
        unit: the score times its noise level, -eps, which is what noise-conditional score networks compute before they
            divide by it.
    """

    network: ScoreModel
    t: float
    unit: bool = False

    def score(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> score, same shape."""
        schedule = self.network.schedule
        signal = schedule.alpha_bar(self.t) ** 0.5
        eps = self.network.epsilon(signal * to_model_space(x), times(x, self.t))
        return -eps if self.unit else -2 * signal / schedule.sigma(self.t) * eps


def data_score(score: ScoreModel | DataScore, t: float, *, unit: bool = False) -> DataScore:
    """The score itself where it is a `DataScore`, else the VP network's at time t; see `FixedTimeScore`."""
    return score if isinstance(score, DataScore) else FixedTimeScore(score, t, unit)
