"""MimicDiffusion: generation from pure noise, steered towards the input by the sign of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, defenses, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource
from defenses.traits import per_instance

LEVELS = 1000


@register
@dataclass(frozen=True, kw_only=True)
class MimicDiffusion(Purifier):
    """MimicDiffusion (Song, Lai, Pan & Yin, CVPR 2024, arXiv:2312.04802).

    DDPM steps from pure noise to a clean image; between two of them the state gains
    g = 2 guidance_scale / (reference_batch_size reference_pixels) times the sign of input - x0, x0 the predicted clean
    image: the gradient of an L1 distance, without dependence on the noise level.

    Differs from the authors' code: the result depends neither on the batch nor on whether gradients are recorded (their
    output moves 16 % on a toy when they are; ours is the one they evaluate); their second, "super-resolution" term
    equals the first and is one with it. The surrogate is their attack's: plain denoising from level 200 in 5 steps.
    The image enters through a sign alone, so the exact gradient is 0 almost everywhere and is not offered.

    Attributes:
        steps: reverse steps, evenly spread over the 1000 levels, in 1..1000.
        guide_after: the guided steps are those whose number, from 0, lies strictly above this share of the steps and
            below guide_until's, in [0, guide_until); 0.2 and 0.9 are steps 21..89 of 100.
        guide_until: share of the steps at which guidance ends, in (guide_after, 1].
        guidance_scale: the source's rho, >= 0; 0 is unguided: an output that does not depend on the input.
        reference_batch_size: images over which the source averages its guidance, >= 1; its setting is meant for 16.
        reference_pixels: pixels of an image over which it averages too, >= 1; 32 x 32 for CIFAR-10.
        softness: >= 0, [-1, 1] units; above 0 the sign becomes tanh(difference / softness), a variant of ours with an
            exact gradient, which an attacker of the real one can differentiate and transfer from.
    """

    title: ClassVar[str] = "MimicDiffusion"
    source: ClassVar[str] = "Song et al., CVPR 2024, arXiv:2312.04802; released code"
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = per_instance(
        ("surrogate",), lambda self: ("exact", "surrogate") if self.softness else ("surrogate",)
    )
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The defense has no gradient with respect to the image, and the released attack differentiates another process "
        "(level 200 in 5 steps, unguided). With the guidance differentiated and 128 draws, DiffBreak reports 25.78 and "
        "27.73 by majority and 2.73 and 4.3 for the worst draw, against 92.67 and 92.26 published."
    )

    steps: int = 100
    guide_after: float = 0.2
    guide_until: float = 0.9
    guidance_scale: float = 3000.0
    reference_batch_size: int = 16
    reference_pixels: int = 32 * 32
    softness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(LEVELS, self.steps)
        if not 0 <= self.guide_after < self.guide_until <= 1:
            raise ValueError(
                f"Expected 0 <= guide_after < guide_until <= 1, got {self.guide_after} and {self.guide_until}."
            )
        if min(self.guidance_scale, self.softness, self.reference_batch_size - 1, self.reference_pixels - 1) < 0:
            raise ValueError(
                "Expected guidance_scale >= 0, softness >= 0, reference_batch_size >= 1 and reference_pixels >= 1, got "
                f"{self.guidance_scale}, {self.softness}, {self.reference_batch_size} and {self.reference_pixels}."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * self.steps

    def surrogate(self) -> Purifier:
        """The process that the authors' attack differentiates."""
        cheap = defenses.make("ddim", {"t": 0.2, "steps": 5, "eta": 1.0})
        assert isinstance(cheap, Purifier)
        return cheap

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1].

        The noise of step 0 is the start, that of step k + 1 the k-th step's.
        """
        schedule, walk = score.schedule, sub_sequence(LEVELS, self.steps)

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                x, given = state
                index, following = walk[k]
                eps = score.epsilon_at(x, indices(x, index))
                x0 = predict_x0(x, eps, schedule.alpha_bar_at(index))
                z = noise.normal(x, step=k + 1)
                x = reverse_ddim(x0, eps, z, schedule=schedule, index=index, next_index=following, eta=1.0)
                if self.guide_after * self.steps < k < self.guide_until * self.steps:
                    x = x + self.pull(given - x0)
                return x, given

            start = noise.normal(images, step=0)
            x, _ = scan(step, (start, to_model_space(images)), self.steps, checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    def pull(self, difference: Tensor) -> Tensor:
        """What the guidance adds to a state, given input minus predicted clean image, in [-1, 1] space."""
        weight = 2 * self.guidance_scale / (self.reference_batch_size * self.reference_pixels)
        return weight * (torch.tanh(difference / self.softness) if self.softness else difference.sign())
