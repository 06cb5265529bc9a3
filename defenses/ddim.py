"""Purification by DDIM: a sub-sequence of the discrete levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.subsequence import noise_and_denoise, sub_sequence
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class DDIM(DiffusionPurifier):
    """DDIM purification (Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, Eq. 12).

    Noise to the discrete level of t, then `steps` evenly spread levels down to the clean image; nothing is clipped.
    With eta 1, t = 0.2 and 5 steps it is DiffPure as Lee & Kim (ICCV 2023) run it.

    Attributes:
        steps: reverse steps, in 1 .. levels of t; None is every level.
        eta: noise of a step, in [0, 1]; 0 is deterministic after the forward noise, 1 is ancestral sampling.
    """

    title: ClassVar[str] = "DDIM"
    source: ClassVar[str] = "Song, Meng & Ermon, ICLR 2021, arXiv:2010.02502, Eq. 12"

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(self.levels, self.reverse_steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Expected eta in [0, 1], got {self.eta}.")

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            return to_image_space(
                noise_and_denoise(
                    to_model_space(images),
                    noise,
                    score=score,
                    levels=self.levels,
                    steps=self.reverse_steps,
                    eta=self.eta,
                    checkpoint_every=self.checkpoint_every,
                )
            )

        return purify
