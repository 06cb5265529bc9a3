"""The variance-preserving noise schedule, continuous and discrete, and the two image spaces.

Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021, Eq. 11 and
appendix C (continuous); Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020, Eqs. 4-7 (discrete). The
literature's forward noise is discrete while its SDE is continuous; the two differ slightly, so both live here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def to_model_space(images: Tensor) -> Tensor:
    """[0, 1] images -> the [-1, 1] space that diffusion networks see."""
    return 2 * images - 1


def to_image_space(x: Tensor) -> Tensor:
    """[-1, 1] states -> [0, 1] images (not clipped)."""
    return (x + 1) / 2


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Values clipped to [low, high], with derivative 1 on the closed interval and 0 outside.

    torch.clamp has none at the ends from torch 2.14 on: pixels that an attack moved to 0 or 1 would stay there.
    """
    return torch.where((x >= low) & (x <= high), x, x.detach().clamp(low, high))


def _exp(value: Number) -> Number:
    return torch.exp(value) if isinstance(value, Tensor) else math.exp(value)


def _sqrt(value: Number) -> Number:
    return torch.sqrt(value) if isinstance(value, Tensor) else math.sqrt(value)


@dataclass(frozen=True)
class VPSchedule:
    """The linear schedule beta(t) = beta_min + (beta_max - beta_min) t, t in [0, 1], and its discrete levels.

    Continuous functions take a float or a tensor. Discrete ones (`*_at`) take a Python integer and return a float, so
    that they scale tensors of any dtype and device.

    Attributes:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        levels: discrete levels, i = 0..levels - 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    levels: int = 1000

    def beta(self, t: Number) -> Number:
        """Rate of the VP-SDE at time t."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha_bar(self, t: Number) -> Number:
        """Squared signal scale exp(-int_0^t beta)."""
        return _exp(-self.beta_min * t - 0.5 * (self.beta_max - self.beta_min) * t * t)

    def sigma(self, t: Number) -> Number:
        """Noise scale sqrt(1 - alpha_bar(t))."""
        if isinstance(t, Tensor):
            return _sqrt(-torch.expm1(-self.beta_min * t - 0.5 * (self.beta_max - self.beta_min) * t * t))
        return math.sqrt(-math.expm1(-self.beta_min * t - 0.5 * (self.beta_max - self.beta_min) * t * t))

    def time_of(self, alpha_bar: Number) -> Number:
        """The time t with alpha_bar(t) equal to the given value in (0, 1]."""
        slope = self.beta_max - self.beta_min
        log = torch.log(alpha_bar) if isinstance(alpha_bar, Tensor) else math.log(alpha_bar)
        return (-self.beta_min + _sqrt(self.beta_min**2 - 2 * slope * log)) / slope

    @cached_property
    def _tables(self) -> tuple[list[float], list[float]]:
        betas = torch.linspace(
            self.beta_min / self.levels, self.beta_max / self.levels, self.levels, dtype=torch.float64
        )
        return betas.tolist(), torch.cumprod(1 - betas, 0).tolist()

    def level(self, t: float) -> int:
        """Number of discrete levels that time t stands for: t = 0.1 is 100 of 1000."""
        if not 0 < t <= 1:
            raise ValueError(f"Expected t in (0, 1], got {t}.")
        return max(1, round(t * self.levels))

    def beta_at(self, i: int) -> float:
        """Discrete beta_i."""
        return self._tables[0][self._checked(i)]

    def alpha_bar_at(self, i: int) -> float:
        """Discrete alpha_bar_i = prod_{j<=i} (1 - beta_j); 1 for i = -1."""
        return 1.0 if i == -1 else self._tables[1][self._checked(i)]

    def step_beta_at(self, i: int, before: int | None = None) -> float:
        """Beta of one step from level `before` to level i; beta_i where no level is skipped.

        Args:
            i: level, > before.
            before: level, -1 for the clean image; None is i - 1.
        """
        if before is None or before == i - 1:
            return self.beta_at(i)
        return 1 - self.alpha_bar_at(i) / self.alpha_bar_at(before)

    def posterior_mean_at(self, i: int, before: int | None = None) -> tuple[float, float]:
        """Weights (of x_0, of x_i) in the mean of q(x_before | x_i, x_0) (Ho et al., Eq. 7); see `step_beta_at`."""
        b, a, a_prev = self.step_beta_at(i, before), self.alpha_bar_at(i), self._alpha_bar_before(i, before)
        return b * math.sqrt(a_prev) / (1 - a), (1 - a_prev) * math.sqrt(1 - b) / (1 - a)

    def posterior_variance_at(self, i: int, before: int | None = None) -> float:
        """Variance of q(x_before | x_i, x_0), 0 where `before` is the clean image; see `step_beta_at`."""
        return self.step_beta_at(i, before) * (1 - self._alpha_bar_before(i, before)) / (1 - self.alpha_bar_at(i))

    def log_variance_at(self, i: int, kind: Literal["small", "large"] = "small", before: int | None = None) -> float:
        """Log of the sampler's variance in a step from level i to `before`.

        Args:
            i: level.
            kind: "small" is the posterior variance (floor 1e-20), "large" the step's beta (posterior of 1 at i = 0).
            before: level, -1 for the clean image; None is i - 1.
        """
        if kind == "small":
            return math.log(max(self.posterior_variance_at(i, before), 1e-20))
        return math.log(self.posterior_variance_at(1) if i == 0 else self.step_beta_at(i, before))

    def clipped_log_variance_at(self, i: int) -> float:
        """Log posterior variance with entry 0 replaced by entry 1, the lower end of a learned range."""
        return math.log(self.posterior_variance_at(max(i, 1)))

    def diffuse_at(self, x: Tensor, i: int, noise: Tensor) -> Tensor:
        """x noised to discrete level i: sqrt(alpha_bar_i) x + sqrt(1 - alpha_bar_i) noise."""
        a = self.alpha_bar_at(i)
        return math.sqrt(a) * x + math.sqrt(1 - a) * noise

    def diffuse(self, x: Tensor, t: float, noise: Tensor) -> Tensor:
        """x noised to continuous time t: sqrt(alpha_bar(t)) x + sigma(t) noise."""
        return math.sqrt(self.alpha_bar(t)) * x + self.sigma(t) * noise

    def _alpha_bar_before(self, i: int, before: int | None) -> float:
        return self.alpha_bar_at(i - 1 if before is None else before)

    def _checked(self, i: int) -> int:
        if not 0 <= i < self.levels:
            raise ValueError(f"Expected a level index in 0..{self.levels - 1}, got {i}.")
        return i
