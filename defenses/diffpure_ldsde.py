"""DiffPure's Langevin variant: a walk in the data density that is held near the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import score_from_epsilon, time_grid
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource

NETWORK_TIME = 0.01  # where the score of the data is read


@register
@dataclass(frozen=True, kw_only=True)
class DiffPureLDSDE(DiffusionPurifier):
    """Langevin purification (LD-SDE; Nie et al., ICML 2022, a comparison in DiffPure's released code).

    No forward noise: Euler-Maruyama over a clock that runs for t, with drift (rate / 2) (score(x, 0.01) - (x - input) /
    tether) and diffusion noise_scale sqrt(rate). Where t is no multiple of 0.01 the steps are equal, where the authors'
    end on a short one; their integrator's extra network call and their adjoint gradient are left out.

    Attributes:
        t: length of the clock, in (0, 1].
        steps: Euler-Maruyama steps, in [1, 10000]; None is one per ten discrete levels, a step of 0.01 as released.
        rate: the authors' lambda, > 0.
        tether: the authors' sigma squared, > 0; small holds the walk near the input, in [-1, 1] space.
        noise_scale: the authors' eta, >= 0; 1 would sample the tethered density.
    """

    title: ClassVar[str] = "DiffPure (LD-SDE)"
    source: ClassVar[str] = "Nie et al., ICML 2022, arXiv:2205.07460, LD-SDE; released code"

    t: float = 0.2
    rate: float = 1e-2
    tether: float = 1e-3
    noise_scale: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rate > 0 and self.tether > 0 and self.noise_scale >= 0):
            raise ValueError(
                "Expected rate > 0, tether > 0 and noise_scale >= 0, got "
                f"{self.rate}, {self.tether} and {self.noise_scale}."
            )

    @property
    def reverse_steps(self) -> int:
        """Steps of one purification."""
        return self.steps or math.ceil(self.levels / 10)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        sigma = score.schedule.sigma(NETWORK_TIME)

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            start = to_model_space(images)
            grid = time_grid(self.t, self.reverse_steps, dtype=images.dtype)

            def step(state: State, k: int) -> State:
                x, anchor = state
                _, dt = grid[k]
                data_score = score_from_epsilon(score.epsilon(x, times(x, NETWORK_TIME)), sigma)
                drift = 0.5 * self.rate * (data_score - (x - anchor) / self.tether)
                z = noise.normal(x, step=k + 1)
                return x + drift * dt + self.noise_scale * math.sqrt(self.rate * dt) * z, anchor

            x, _ = scan(step, (start, start), len(grid), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify
