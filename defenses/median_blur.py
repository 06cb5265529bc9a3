"""Median filter before the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class MedianBlur(Purifier):
    """Median smoothing (Xu, Evans & Qi, "Feature squeezing", NDSS 2018, section III-B).

    Every pixel becomes the median of the kernel_size x kernel_size window around it, channel by channel, with the
    border mirrored edge included. As in the authors' code (SciPy's `median_filter`), an even window reaches one pixel
    further up and left, and of its two middle values takes the larger. Differentiable almost everywhere, through the
    chosen pixel.

    Attributes:
        kernel_size: side of the window, pixels, in 2..15; the authors use 2 and 3.
    """

    title: ClassVar[str] = "median blur"
    source: ClassVar[str] = "Xu, Evans & Qi, NDSS 2018, arXiv:1704.01155, section III-B"
    stochastic: ClassVar[bool] = False

    kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.kernel_size <= 15:
            raise ValueError(f"Expected kernel_size in 2..15, got {self.kernel_size}.")

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        from torchvision.transforms.v2.functional import pad

        size = self.kernel_size
        before, after = size // 2, (size - 1) // 2

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            padded = pad(images, [before, before, after, after], padding_mode="symmetric")
            windows = padded.unfold(2, size, 1).unfold(3, size, 1).flatten(-2)
            return windows.kthvalue(size * size // 2 + 1, -1).values

        return purify
