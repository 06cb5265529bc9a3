"""Likelihood maximisation: descend the denoising error of a diffusion model from the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoising_error
from defenses.diffusion.guidance import ADAM_FLOOR, adam, input_gradient, safe_sqrt
from defenses.diffusion.scan import State
from defenses.models.score_models import ScoreModel
from defenses.noise import Noise, NoiseSource
from defenses.traits import per_instance


@register
@dataclass(frozen=True, kw_only=True)
class LikelihoodMaximization(Purifier):
    """Likelihood maximization of RDC (Chen et al., "Robust Classification via a Single Diffusion Model", ICML 2024).

    Adam steps on the image, down the error of the network's denoising of image plus noise (a bound on minus the log
    likelihood), noise and its level drawn anew for every step. gradient="exact" is second order; it is not what
    DiffHammer calls the full gradient, which drops the paths through the running averages (docs/methods.md).

    Attributes:
        steps: Adam steps, >= 1.
        step_size: Adam's, [-1, 1] units, > 0.
        sigma_low: lower end of the noise level, [-1, 1] units, >= 0; each image's level is uniform between the ends.
        sigma_high: upper end of the noise level, >= sigma_low.
        radius: largest L2 distance from the input, image units, > 0; None is no limit (the source has 100, which never
            binds).
        fixed_noise: whether, as released, every call starts from the same seed and images come one at a time: the same
            noise for every image and call, and nothing is random.
        averages: "plain" Adam, or "compounded" as in DiffHammer, which stores its running averages bias-corrected.
        reference_batch_size: images over which the source averages the error, >= 1; it matters only beside Adam's 1e-8,
            and here the result does not depend on the batch.
    """

    title: ClassVar[str] = "likelihood maximization"
    source: ClassVar[str] = "Chen et al., ICML 2024, arXiv:2305.15241; released code"
    stochastic: ClassVar[bool] = per_instance(True, lambda self: not self.fixed_noise)
    needs_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The released code resets the seed at every call, so the published numbers are of a fixed function "
        "(fixed_noise) under BPDA; DiffHammer's full gradient of its own variant drops paths (cosine 0.68 to the exact "
        "one on a toy)."
    )

    steps: int = 5
    step_size: float = 0.1
    sigma_low: float = 0.4
    sigma_high: float = 0.6
    radius: float | None = None
    fixed_noise: bool = False
    averages: Literal["plain", "compounded"] = "plain"
    reference_batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.averages not in ("plain", "compounded"):
            raise ValueError(f"Expected averages among plain, compounded, got {self.averages!r}.")
        if not (self.steps >= 1 and self.step_size > 0 and 0 <= self.sigma_low <= self.sigma_high):
            raise ValueError(
                "Expected steps >= 1, step_size > 0 and 0 <= sigma_low <= sigma_high, got "
                f"{self.steps}, {self.step_size}, {self.sigma_low} and {self.sigma_high}."
            )
        if self.reference_batch_size < 1 or (self.radius is not None and self.radius <= 0):
            raise ValueError(
                "Expected reference_batch_size >= 1 and radius > 0 or None, got "
                f"{self.reference_batch_size} and {self.radius}."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image (as many derivatives again)."""
        return self.runs * self.steps

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        differentiated, floor = gradient == "exact", ADAM_FLOOR * self.reference_batch_size
        update = adam if self.averages == "plain" else compounded_adam

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            if self.fixed_noise:
                noise = Noise(1, torch.zeros(len(images), dtype=torch.int64))

            def step(state: State, k: int) -> State:
                x, m, v, given = state
                n = noise.normal(x, step=k + 1)
                uniform = noise.uniform(x[:, 0, 0, 0], step=k + 1, stream=1)
                sigma = self.sigma_low + (self.sigma_high - self.sigma_low) * uniform
                g = input_gradient(lambda x: denoising_error(score, x, sigma, n), x, differentiated=differentiated)
                x, m, v = update(x, m, v, g, k + 1, lr=self.step_size, floor=floor)
                return self.projected(x, given), m, v, given

            x = to_model_space(images)
            zeros = torch.zeros_like(x)
            x, *_ = scan(step, (x, zeros, zeros, x), self.steps, checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify

    def projected(self, x: Tensor, given: Tensor) -> Tensor:
        """x moved back into the ball around the given image, both in [-1, 1] space."""
        if self.radius is None:
            return x
        moved = x - given
        length = safe_sqrt((moved**2).sum((1, 2, 3), keepdim=True))
        return given + moved * (2 * self.radius / length.clamp_min(2 * self.radius))


def compounded_adam(
    w: Tensor, m: Tensor, v: Tensor, gradient: Tensor, n: int, *, lr: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """DiffHammer's Adam step: as `adam`, but the averages are stored bias-corrected, so corrections compound."""
    m = (0.9 * m + 0.1 * gradient) / (1 - 0.9**n)
    v = (0.999 * v + 0.001 * gradient**2) / (1 - 0.999**n)
    return w - lr * m / (safe_sqrt(v) + floor), m, v
