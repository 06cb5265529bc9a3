"""Gradual noise scheduling: several rounds of noising and denoising, the noise growing, and a vote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from defenses.base import Combine, Gradient, Purifier, Purify, register
from defenses.diffusion import to_image_space, to_model_space
from defenses.diffusion.subsequence import noise_and_denoise, sub_sequence
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource

ATTACK_STEPS = 5  # denoising steps of the last stage in the process that Lee & Kim's attack differentiates


@register
@dataclass(frozen=True, kw_only=True)
class GradualNoise(Purifier):
    """Gradual noise scheduling (Lee & Kim, "Robust evaluation of diffusion-based adversarial purification", ICCV 2023).

    Stage after stage the image is noised to `levels[i]` and denoised in `steps[i]` steps of a sub-sequence; ten such
    purifications vote. Nothing is clipped. levels=(200,), steps=(5,), runs=1 is their DiffPure-like setting.
    gradient="surrogate" is their attack: each distinct level once, one step a stage and five in the last (30, 50, 125
    in 1, 1, 5 steps: 7 network evaluations in place of 470), through a single run.

    Attributes:
        runs: purifications behind one answer, >= 1; the authors take 10.
        combine: how the runs' answers are joined; a "vote" in the source.
        levels: noise levels of the stages, each in 1..1000; the authors' last two are 200 on ImageNet, 80 on SVHN.
        steps: denoising steps of the stages, each in 1..levels[i]; None is every level.
        eta: noise of a denoising step, in [0, 1]; 1 is ancestral sampling.
    """

    title: ClassVar[str] = "gradual noise"
    source: ClassVar[str] = "Lee & Kim, ICCV 2023, arXiv:2303.09051, gradual noise scheduling; released code"
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")
    checkpoint_every: ClassVar[int | None] = None

    runs: int = 10
    combine: Combine = "vote"
    levels: tuple[int, ...] = (30, 30, 30, 30, 50, 50, 125, 125)
    steps: tuple[int, ...] | None = None
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "levels", tuple(self.levels))  # lists, after a round trip through JSON
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
        if not self.levels or not all(1 <= level <= 1000 for level in self.levels):
            raise ValueError(f"Expected levels to be one or more integers in 1..1000, got {self.levels}.")
        if len(self.stage_steps) != len(self.levels):
            raise ValueError(f"Expected steps for each of {len(self.levels)} stages, got {len(self.stage_steps)}.")
        for level, steps in zip(self.levels, self.stage_steps, strict=True):
            sub_sequence(level, steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Expected eta in [0, 1], got {self.eta}.")

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Denoising steps of each stage."""
        return self.levels if self.steps is None else self.steps

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * sum(self.stage_steps)

    def surrogate(self) -> Self:
        """The process that Lee & Kim's attack differentiates."""
        levels = tuple(dict.fromkeys(self.levels))
        steps = (*(1 for _ in levels[:-1]), min(ATTACK_STEPS, levels[-1]))
        return replace(self, levels=levels, steps=steps, runs=1)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x, first = to_model_space(images), 0
            for levels, steps in zip(self.levels, self.stage_steps, strict=True):
                x = noise_and_denoise(
                    x,
                    noise,
                    score=score,
                    levels=levels,
                    steps=steps,
                    eta=self.eta,
                    first=first,
                    checkpoint_every=self.checkpoint_every,
                )
                first += steps + 1
            return to_image_space(x)

        return purify
