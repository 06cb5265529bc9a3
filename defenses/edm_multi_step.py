"""Multi-step denoising: noise, then the probability-flow ODE on the EDM grid of noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.diffusion.scan import State
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource

HIGHEST, LOWEST, BEND = 80.0, 0.002, 7  # of the EDM grid


@register
@dataclass(frozen=True, kw_only=True)
class EDMMultiStep(Purifier):
    """Multi-step denoising on the noise levels of EDM, a baseline of ScoreOpt (Zhang, Luo & Zhang, NeurIPS 2023).

    Noise to one level of the grid of Karras et al. (NeurIPS 2022, Eq. 5), then Euler steps of
    dy/dsigma = (y - D(y, sigma)) / sigma down to 0. The denoiser D is a VP network's (`denoise`), not an EDM one.

    Attributes:
        levels: length of the grid, which runs from 80 to 0.002, [-1, 1] units; >= 2.
        start: index in the grid of the noise added, in 0..levels-1 (11 of 18 is 0.58); levels - start steps follow.
    """

    title: ClassVar[str] = "EDM multi-step"
    source: ClassVar[str] = (
        "Zhang, Luo & Zhang, NeurIPS 2023, arXiv:2307.04333, baseline in the released code; "
        "grid: Karras et al., NeurIPS 2022, arXiv:2206.00364, Eq. 5"
    )
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None

    levels: int = 18
    start: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.levels >= 2 and 0 <= self.start < self.levels):
            raise ValueError(f"Expected levels >= 2 and start in 0..levels-1, got {self.levels} and {self.start}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * (self.levels - self.start)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        sigmas = edm_grid(self.levels)[self.start :]

        def step(state: State, k: int) -> State:
            (y,) = state
            sigma, following = sigmas[k : k + 2]
            return (y + (following - sigma) / sigma * (y - denoise(score, y, sigma)),)

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            y = to_model_space(images) + sigmas[0] * noise.normal(images, step=0)
            (y,) = scan(step, (y,), len(sigmas) - 1, checkpoint_every=self.checkpoint_every)
            return to_image_space(y).clamp(0, 1)

        return purify


def edm_grid(levels: int) -> list[float]:
    """Noise levels from 80 to 0.002, evenly spaced in their seventh roots, then 0."""
    high, low = HIGHEST ** (1 / BEND), LOWEST ** (1 / BEND)
    return [(high + i / (levels - 1) * (low - high)) ** BEND for i in range(levels)] + [0.0]
