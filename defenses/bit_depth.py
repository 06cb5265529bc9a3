"""Bit depth reduction before the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class BitDepth(Purifier):
    """Bit depth reduction (Xu, Evans & Qi, "Feature squeezing", NDSS 2018, section III-A).

    Rounds every value to the nearest of 2**bits equally spaced ones, both ends included. (The `posterize` of image
    libraries truncates 8-bit values instead, which darkens the image.)

    Attributes:
        bits: bits a channel, in 1..8; 3 to 5 are customary.
    """

    title: ClassVar[str] = "bit-depth reduction"
    source: ClassVar[str] = "Xu, Evans & Qi, NDSS 2018, arXiv:1704.01155, section III-A"
    stochastic: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ()

    bits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= 8:
            raise ValueError(f"Expected bits in 1..8, got {self.bits}.")

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        top = 2**self.bits - 1

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            return (top * images).round() / top

        return purify
