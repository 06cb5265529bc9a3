"""Gaussian noise before the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Purifier):
    """One draw of Gaussian noise added to the image, not clipped: the control for what a purifier's own noise does.

    It is a single sample of randomized smoothing (Cohen et al., ICML 2019, Eq. 1).

    Attributes:
        sigma: standard deviation of the noise, image units, >= 0.
    """

    title: ClassVar[str] = "Gaussian noise"
    source: ClassVar[str] = "Cohen, Rosenfeld & Kolter, ICML 2019, arXiv:1902.02918, Eq. 1, a single draw"
    stochastic: ClassVar[bool] = True

    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma >= 0:
            raise ValueError(f"Expected sigma >= 0, got {self.sigma}.")

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            return images + self.sigma * noise.normal(images, step=0)

        return purify
