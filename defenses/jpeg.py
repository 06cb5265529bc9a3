"""JPEG compression before the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class JPEG(Purifier):
    """JPEG encoding and decoding (Guo et al., ICLR 2018; before them Dziugaite, Ghahramani & Roy, arXiv:1608.00853).

    Clips to [0, 1], rounds to 8 bits, then encodes and decodes with Pillow, on the CPU. Images have 1 or 3 channels;
    colour is subsampled 4:2:0, the default of libjpeg.

    Attributes:
        quality: libjpeg's quality, in 1..100; 75 is Guo et al.'s, 20 to 50 are stronger.
    """

    title: ClassVar[str] = "JPEG"
    source: ClassVar[str] = "Guo et al., ICLR 2018, arXiv:1711.00117"
    stochastic: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ()

    quality: int = 75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.quality <= 100:
            raise ValueError(f"Expected quality in 1..100, got {self.quality}.")

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, 1 or 3, height, width) in [0, 1]."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            if images.shape[1] not in (1, 3):
                raise ValueError(f"JPEG expects images of 1 or 3 channels, got {images.shape[1]}.")
            levels = (255 * images.detach().clamp(0, 1)).round().byte().cpu()
            decoded = torch.stack([_encode_and_decode(image, self.quality) for image in levels])
            return decoded.to(images) / 255

        return purify


def _encode_and_decode(image: Tensor, quality: int) -> Tensor:
    """(1 or 3, height, width) bytes through a JPEG file in memory."""
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

    file = BytesIO()
    to_pil_image(image).save(file, format="JPEG", quality=quality)
    with Image.open(file) as decoded:
        return pil_to_tensor(decoded)
