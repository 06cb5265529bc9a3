"""ScoreOpt-N: descend, from a noised input, the disagreement between the noise that was added and the noise seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, defenses, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.diffusion.guidance import ADAM_FLOOR, adam, input_gradient
from defenses.diffusion.scan import State
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class ScoreOptN(Purifier):
    """ScoreOpt-N (Zhang, Luo & Zhang, "Enhancing Adversarial Robustness via Score-Based Optimization", NeurIPS 2023).

    Adam steps on the noised image, down the squared difference between the noise that was added and the noise that the
    network sees in it; the answer is the denoised result. Defaults are the setting against adaptive attacks; against
    transferred ones the authors use sigma 0.25 and 5 steps. The network is a VP one, the authors' is EDM's. The
    surrogate is their stand-in, one denoising at level sigma (`edm_one_shot`). gradient="exact" is second order.

    Attributes:
        steps: Adam steps, >= 1.
        step_size: Adam's, [-1, 1] units, > 0.
        sigma: noise level, [-1, 1] units, > 0.
        reference_batch_size: images over which the source averages the loss, >= 1; it matters only beside Adam's 1e-8,
            and here the result does not depend on the batch.
    """

    title: ClassVar[str] = "ScoreOpt-N"
    source: ClassVar[str] = "Zhang, Luo & Zhang, NeurIPS 2023, arXiv:2307.04333; released code (xt)"
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The published attacks differentiate the identity (BPDA) or a one-shot denoiser in place of the defense."
    )

    steps: int = 20
    step_size: float = 0.1
    sigma: float = 0.5
    reference_batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.steps >= 1 and self.step_size > 0 and self.sigma > 0 and self.reference_batch_size >= 1):
            raise ValueError(
                "Expected steps >= 1, step_size > 0, sigma > 0 and reference_batch_size >= 1, got "
                f"{self.steps}, {self.step_size}, {self.sigma} and {self.reference_batch_size}."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image (and a derivative for every step)."""
        return self.runs * (self.steps + 1)

    def surrogate(self) -> Purifier:
        """One denoising at level sigma, as the authors' PGD attack differentiates."""
        cheap = defenses.make("edm_one_shot", {"sigma": self.sigma})
        assert isinstance(cheap, Purifier)
        return cheap

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        differentiated, floor = gradient == "exact", ADAM_FLOOR * self.reference_batch_size

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            n = noise.normal(images, step=0)

            def disagreement(y: Tensor) -> Tensor:
                return (((y - denoise(score, y, self.sigma)) / self.sigma - n) ** 2).mean((1, 2, 3))

            def step(state: State, k: int) -> State:
                y, m, v = state
                g = input_gradient(disagreement, y, differentiated=differentiated)
                return adam(y, m, v, g, k + 1, lr=self.step_size, floor=floor)

            y = to_model_space(images) + self.sigma * n
            zeros = torch.zeros_like(y)
            y, *_ = scan(step, (y, zeros, zeros), self.steps, checkpoint_every=self.checkpoint_every)
            return to_image_space(denoise(score, y, self.sigma)).clamp(0, 1)

        return purify
