"""Randomized smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.certify import Smoothing
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing(Smoothing):
    """Randomized smoothing (Cohen, Rosenfeld & Kolter, ICML 2019, Eq. 1).

    The answer is the label that the classifier gives most often in `runs` draws of Gaussian noise, and never abstains;
    `certify` gives the radius and abstains. The classifier should have been trained on noise of the same sigma. It has
    no fields of its own.
    """

    title: ClassVar[str] = "randomized smoothing"
    source: ClassVar[str] = "Cohen, Rosenfeld & Kolter, ICML 2019, arXiv:1902.02918, Eq. 1 and Theorem 1"

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
