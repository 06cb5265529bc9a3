"""One-shot denoising: noise, then one call of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class EDMOneShot(Purifier):
    """One-shot denoising, a baseline of ScoreOpt (Zhang, Luo & Zhang, NeurIPS 2023, arXiv:2307.04333).

    Gaussian noise of scale sigma, then the image that the network expects behind it: the denoiser of Karras et al.
    (NeurIPS 2022, Table 1), here a VP network's (`denoise`).

    Attributes:
        sigma: noise level, [-1, 1] units, > 0; 0.5 is the noise of t = 0.145.
    """

    title: ClassVar[str] = "EDM one-shot"
    source: ClassVar[str] = (
        "Zhang, Luo & Zhang, NeurIPS 2023, arXiv:2307.04333, baseline in the released code; "
        "denoiser: Karras et al., NeurIPS 2022, arXiv:2206.00364, Table 1"
    )
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True

    sigma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise ValueError(f"Expected sigma > 0, got {self.sigma}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            y = to_model_space(images) + self.sigma * noise.normal(images, step=0)
            return to_image_space(denoise(score, y, self.sigma)).clamp(0, 1)

        return purify
