"""No defense: the classifier as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class Undefended(Purifier):
    """The bare classifier; the row that every table starts with."""

    title: ClassVar[str] = "undefended"
    source: ClassVar[str] = "No defense: the classifier as it is."
    stochastic: ClassVar[bool] = False

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The identity."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            return images

        return purify
