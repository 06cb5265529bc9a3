"""Langevin purification: many small noisy steps up the score of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import scan
from defenses.diffusion.denoise import data_score
from defenses.diffusion.purifier import check_time
from defenses.diffusion.scan import State
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource

ENERGY_TEMPERATURE = 5e-5  # at which the source samples its energy: drift -grad U beside noise of 0.01, [-1, 1] units


@register
@dataclass(frozen=True, kw_only=True)
class Langevin(Purifier):
    """Long-run Langevin purification with an energy-based model (Hill, Mitchell & Zhu, ICLR 2021, arXiv:2005.13525).

    x <- x + noise_scale^2 / (2 temperature) score(x) + noise_scale z; nothing is clipped. The classifier sees [0, 1]
    images, the authors' takes [-1, 1]. They average the logits of many chains: set `runs`.

    Attributes:
        steps: Langevin steps, >= 1.
        noise_scale: standard deviation of a step's noise, image units, > 0 (0.005 is 0.01 in [-1, 1] units).
        temperature: of the density whose score is given, > 0; None is 5e-5 for a `DataScore` (the source's energy,
            score = -grad U) and 1 for a VP network.
        t: time in (0, 1] at which a VP network stands in for the score of the source's energy; unused with a
            `DataScore`.
    """

    title: ClassVar[str] = "Langevin EBM"
    source: ClassVar[str] = "Hill, Mitchell & Zhu, ICLR 2021, arXiv:2005.13525; released code"
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    takes_data_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The published 54.90 is under BPDA, which passes 1500 Langevin steps by the identity, and of a trained energy."
    )

    steps: int = 1500
    noise_scale: float = 0.005
    temperature: float | None = None
    t: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.steps >= 1 and self.noise_scale > 0 and 0 < self.t <= 1):
            raise ValueError(
                "Expected steps >= 1, noise_scale > 0 and t in (0, 1], got "
                f"{self.steps}, {self.noise_scale} and {self.t}."
            )
        check_time(self.t)
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"Expected temperature > 0 or None, got {self.temperature}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * self.steps

    def build(
        self, *, classifier: nn.Module | None = None, score: ScoreModel | DataScore, gradient: Gradient = "exact"
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        model = data_score(score, self.t)
        temperature = self.temperature or (ENERGY_TEMPERATURE if model is score else 1.0)
        drift = self.noise_scale**2 / (2 * temperature)

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                (x,) = state
                return (x + drift * model.score(x) + self.noise_scale * noise.normal(x, step=k + 1),)

            (x,) = scan(step, (images,), self.steps, checkpoint_every=self.checkpoint_every)
            return x

        return purify
