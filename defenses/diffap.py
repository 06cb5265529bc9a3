"""DiffAP: random sampling from noise, each prediction pulled towards the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource

Sampler = Literal["random", "ddpm", "ddim"]


@register
@dataclass(frozen=True, kw_only=True)
class DiffAP(DiffusionPurifier):
    """DiffAP (Zhang et al., "Random Sampling for Diffusion-based Adversarial Purification", 2024, arXiv:2411.18956).

    Noise to the level of t, then a few steps down to the clean image; in each, the predicted clean image x0 moves by
    c (input - x0), c = 2 guidance_scale sqrt(alpha_bar) / (reference_batch_size reference_elements).

    The published setting has c = 0.991 in the last step, where nothing else remains of the state: the purifier returns
    its input up to 0.9 % of what the network would change. In the released code c follows the batch size, from 15.9
    (batches of 1, where the output explodes) to 0.25 (of 64); here the result does not depend on the batch, a pixel is
    pulled equally hard in images of every size, and there is one stage of noising and denoising. The guidance is
    linear, so the exact gradient costs nothing more; theirs is detached. The surrogate is their attack's: unguided.

    Attributes:
        t: diffusion time of the forward noise, in (0, 1]; the source's 1 leaves almost nothing of the input in it.
        steps: reverse steps, in 1 .. levels of t; the source's 5.
        sampler: "ddpm", "ddim", or the source's "random", which takes DDPM's fresh noise and drops the predicted one,
            so that a state has less noise than its level says.
        guidance_scale: the source's weight of its guidance, >= 0; 0 is unguided.
        reference_batch_size: images over which the source averages its guidance, >= 1; its setting is meant for 16.
        reference_elements: elements of an image over which it averages too, >= 1; 3 x 32 x 32 for CIFAR-10. Only the
            quotient guidance_scale / (reference_batch_size reference_elements) matters.
    """

    title: ClassVar[str] = "DiffAP"
    words: ClassVar[Mapping[str, str]] = {"ddpm": "DDPM", "ddim": "DDIM"}
    source: ClassVar[str] = "Zhang et al., 2024, arXiv:2411.18956; released code"
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "guidance_detached", "surrogate")
    published_caveat: ClassVar[str] = (
        "The released attack differentiates the unguided process, whose output hardly depends on the image (gradient "
        "4e-5 of the exact norm on a toy), and at the released batch size of 16 the purifier is nearly the identity: "
        "compare with a transfer attack."
    )

    t: float = 1.0
    steps: int | None = 5
    sampler: Sampler = "random"
    guidance_scale: float = 30_000.0
    reference_batch_size: int = 16
    reference_elements: int = 3 * 32 * 32

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(self.levels, self.reverse_steps)
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"Expected sampler among {', '.join(get_args(Sampler))}, got {self.sampler!r}.")
        if not (self.guidance_scale >= 0 and self.reference_batch_size >= 1 and self.reference_elements >= 1):
            raise ValueError(
                "Expected guidance_scale >= 0, reference_batch_size >= 1 and reference_elements >= 1, got "
                f"{self.guidance_scale}, {self.reference_batch_size} and {self.reference_elements}."
            )

    def surrogate(self) -> Self:
        """The process that the authors' attack differentiates: the same steps without guidance; a single run."""
        return replace(self, guidance_scale=0.0, runs=1)

    def pull(self, alpha_bar: float) -> float:
        """Share of the way to the input that a predicted clean image moves; above 1 it overshoots."""
        return 2 * self.guidance_scale * math.sqrt(alpha_bar) / (self.reference_batch_size * self.reference_elements)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule, walk = score.schedule, sub_sequence(self.levels, self.reverse_steps)
        eta = 0.0 if self.sampler == "ddim" else 1.0

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                x, given = state
                index, following = walk[k]
                eps, alpha_bar = score.epsilon_at(x, indices(x, index)), schedule.alpha_bar_at(index)
                x0 = predict_x0(x, eps, alpha_bar)
                move = self.pull(alpha_bar) * (given - x0)
                x0 = x0 + (move if gradient == "exact" else move.detach())
                kept = torch.zeros_like(eps) if self.sampler == "random" else eps
                z = noise.normal(x, step=k + 1)
                return reverse_ddim(x0, kept, z, schedule=schedule, index=index, next_index=following, eta=eta), given

            given = to_model_space(images)
            x = schedule.diffuse_at(given, self.levels - 1, noise.normal(images, step=0))
            x, _ = scan(step, (x, given), len(walk), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify
