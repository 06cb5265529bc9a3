"""SSNI: every image is noised as much as its score says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.purifier import LITERATURE, DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddpm
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource

Rule = Literal["linear", "sigmoid"]


@register
@dataclass(frozen=True, kw_only=True)
class SSNI(DiffusionPurifier):
    """Sample-specific score-aware noise injection (Sun et al., ICML 2025, arXiv:2506.06027), around DDPM purification.

    An image's level grows with the length n of its mean score, the expected perturbation score (Zhang et al., ICML
    2023): over the first `score_levels` levels, each with noise of its own. Then ancestral sampling from that level to
    the clean image, one step a level. The form of both level rules and their constants are unconfirmed: do not read
    this as a reproduction of the authors' code.

    n is random and the level an integer, so gradients hold the level constant, and an attacker moves it only from step
    to step. Every image waits until its level is reached, so all cost as much as the highest: the count is the same for
    all images, and noise is keyed by the level (step index + 1), so batch-mates do not matter.

    Attributes:
        t: diffusion time whose level the rules scale, in (0, 1].
        steps: None, the only value: one step a level, as every image has its own.
        rule: "linear", level = 1000 t (n - norm_low) / (norm_high - norm_low) + bias (SSNI-L), or "sigmoid", level =
            (1000 t + bias) / (1 + exp(-(n - norm_low) / (norm_high - norm_low))) (SSNI-N); rounded down, kept in
            1 .. 1000 t + bias.
        norm_low: the least n of validation images, or their mean with the sigmoid rule; `calibrated` finds it, and
            without it (None) the defense refuses to purify.
        norm_high: the largest n of validation images, or one temperature above norm_low with the sigmoid rule.
        bias: levels added, >= 0.
        score_levels: levels over which the score is averaged, >= 1; 20 on CIFAR-10 and 50 on ImageNet in the code of
            Zhang et al.
    """

    title: ClassVar[str] = "SSNI"
    source: ClassVar[str] = (
        "Sun et al., ICML 2025, arXiv:2506.06027, level rules unconfirmed; score: Zhang et al., ICML 2023"
    )
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact",)
    published_caveat: ClassVar[str] = (
        "The form of our level rules and their constants are unconfirmed, so a number of the source may be of another "
        "method."
    )

    t: float = 0.1
    rule: Rule = "linear"
    norm_low: float | None = None
    norm_high: float | None = None
    bias: int = 0
    score_levels: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in get_args(Rule):
            raise ValueError(f"Expected rule among {', '.join(get_args(Rule))}, got {self.rule!r}.")
        if self.steps is not None:
            raise ValueError(f"Expected steps None, one a level, as every image has its own level; got {self.steps}.")
        if not (self.bias >= 0 and self.highest <= LITERATURE.levels and 1 <= self.score_levels <= LITERATURE.levels):
            raise ValueError(
                "Expected bias >= 0, 1000 t + bias <= 1000 and score_levels in 1..1000, got "
                f"{self.bias}, {self.highest} and {self.score_levels}."
            )
        if self.norm_low is not None and self.norm_high is not None and not self.norm_low < self.norm_high:
            raise ValueError(f"Expected norm_low < norm_high, got {self.norm_low} and {self.norm_high}.")

    @property
    def highest(self) -> int:
        """The highest level that an image can be noised to."""
        return self.levels + self.bias

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * (self.score_levels + self.highest)

    def calibrated(self, score: ScoreModel, images: Tensor, noise: NoiseSource) -> Self:
        """The same defense with the norms of clean validation images (batch, channels, height, width) in [0, 1].

        They must be new to the network: images that it was trained on can have far shorter scores. Sigmoid: the mean,
        and one standard deviation above it as the temperature (our choice).
        """
        norms = self.score_norm(score, images, noise)
        if self.rule == "linear":
            return replace(self, norm_low=float(norms.min()), norm_high=float(norms.max()))
        return replace(self, norm_low=float(norms.mean()), norm_high=float(norms.mean() + norms.std()))

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule, walk = score.schedule, range(self.highest - 1, -1, -1)
        self.level(torch.zeros(()))  # norms that are missing are asked for here

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            levels = self.level(self.score_norm(score, images, noise)).view(-1, 1, 1, 1)

            def step(state: State, k: int) -> State:
                (x,) = state
                i = walk[k]
                x0 = predict_x0(x, score.epsilon_at(x, indices(x, i)), schedule.alpha_bar_at(i))
                z = noise.normal(x, step=i + 1)
                variance = schedule.log_variance_at(i, "small")
                moved = reverse_ddpm(x, x0, z, schedule=schedule, index=i, log_variance=variance)
                return (torch.where(levels > i, moved, x),)

            alpha_bar = images.new_tensor([schedule.alpha_bar_at(i) for i in range(self.highest)])[levels - 1]
            x = alpha_bar.sqrt() * to_model_space(images) + (1 - alpha_bar).sqrt() * noise.normal(images, step=0)
            (x,) = scan(step, (x,), len(walk), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    @torch.no_grad()
    def score_norm(self, score: ScoreModel, images: Tensor, noise: NoiseSource) -> Tensor:
        """(batch,) length of the expected perturbation score of images in [0, 1]. Noise: stream 1, step = level."""
        schedule, x = score.schedule, to_model_space(images)
        total = torch.zeros_like(x)
        for i in range(self.score_levels):
            x_i = schedule.diffuse_at(x, i, noise.normal(x, step=i, stream=1))
            total -= score.epsilon_at(x_i, indices(x, i)) / math.sqrt(1 - schedule.alpha_bar_at(i))
        return (total / self.score_levels).flatten(1).norm(dim=1)

    def level(self, norm: Tensor) -> Tensor:
        """Integer levels (1 .. `highest`) of images whose mean scores have these lengths (batch,)."""
        if self.norm_low is None or self.norm_high is None:
            raise ValueError(
                "SSNI needs the score norms of validation images, norm_low and norm_high, got none. "
                "Take them from SSNI(...).calibrated(score, images, noise)."
            )
        share = (norm - self.norm_low) / (self.norm_high - self.norm_low)
        level = self.levels * share + self.bias if self.rule == "linear" else self.highest * share.sigmoid()
        return level.floor().long().clamp(1, self.highest)
