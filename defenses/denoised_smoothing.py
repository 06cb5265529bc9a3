"""Denoised smoothing with a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.certify import Smoothing
from defenses.diffusion import to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.models.score_models import ScoreModel
from defenses.noise import Noise


@register
@dataclass(frozen=True, kw_only=True)
class DenoisedSmoothing(Smoothing):
    """Diffusion denoised smoothing (Carlini, Tramèr, Dvijotham, Rice, Sun & Kolter, "(Certified!!) Adversarial
    robustness for free!", ICLR 2023, Algorithm 1).

    Randomized smoothing of the classifier behind a denoiser: Gaussian noise of scale sigma, then one call of the score
    network, at the time where the diffusion has the same ratio of noise to signal, alpha_bar(t) = 1 / (1 + (2 sigma)^2)
    (2 sigma: [-1, 1] images are twice as wide). Needs no classifier trained on noise.

    clip: clip the denoised image to [0, 1], as the authors' code does.

    Differs from the authors' code: t is continuous, not rounded to a level, and the VP schedule is the score network's.
    """

    source: ClassVar[str] = "Carlini et al., ICLR 2023, arXiv:2206.10550, Algorithm 1"
    needs_score: ClassVar[bool] = True

    clip: bool = True

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs

    def build(  # type: ignore[override]
        self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact"
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""

        def purify(images: Tensor, noise: Noise) -> Tensor:
            noisy = images + self.sigma * noise.normal(images, step=0)
            clean = to_image_space(denoise(score, to_model_space(noisy), 2 * self.sigma))
            return clean.clamp(0, 1) if self.clip else clean

        return purify
