"""GDMP: denoising diffusion in several rounds, each step pulled towards the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from defenses.base import Combine, Gradient, Purify, register
from defenses.diffusion import VPSchedule, scan, to_image_space, to_model_space
from defenses.diffusion.guidance import Reconstruction, reconstruction_guide, reconstruction_scale
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource

Variance = Literal["large", "small", "learned"]


@register
@dataclass(frozen=True, kw_only=True)
class GDMP(DiffusionPurifier):
    """Guided diffusion model for purification (Wang et al., 2022, arXiv:2205.14969).

    `rounds` times: noise, then ancestral DDPM steps whose mean gains the variance times a pull towards the (noised)
    input; unclipped states pass from one round to the next. Defaults are the authors' CIFAR-10 setting with MSE
    guidance. The result does not depend on the batch, as theirs does; the spaced levels of their ImageNet setting
    (t = 0.18, 45 steps) lie at most 3 of 1000 levels from ours. gradient="exact" differentiates the guidance too.

    Attributes:
        t: diffusion time of each round's noise, in (0, 1]; 0.036 is the authors' 36 levels.
        steps: reverse steps a round; None is one per level; fewer visit evenly spaced levels.
        runs: purifications behind one answer, >= 1; the authors take 10 (1 on ImageNet).
        combine: how the runs' answers are joined; the authors report all three ways.
        rounds: noise-and-denoise rounds, >= 1; 4 with "mse", 2 with "ssim".
        guidance: similarity to the input that is increased: "mse" (minus the squared error) or "ssim".
        guidance_scale: weight of the guidance, >= 0: 60000 ("mse") or 1000 ("ssim", with t = 0.06); 0 is unguided. It
            is shared among the elements of an image: 60000 on 3x32x32 pulls a pixel as hard as 1250 on 1x8x8.
        epsilon: perturbation that the guidance expects, image units, > 0.
        reference_batch_size: the source averages its guidance over the batch, so its published strength holds for this
            many images a batch, >= 1.
        renoise_reference: whether the input is noised to the level of the state (CIFAR-10) or shown as is (ImageNet).
        extra_level: whether a round noises to the level above the first reverse step (CIFAR-10) or to its very level
            (ImageNet).
        variance: of a reverse step: "large" (CIFAR-10), "small", or the network's "learned" (ImageNet).
    """

    title: ClassVar[str] = "GDMP"
    source: ClassVar[str] = "Wang et al., 2022, arXiv:2205.14969; released code"
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "guidance_detached", "surrogate")

    t: float = 0.036
    runs: int = 10
    combine: Combine = "logits"
    rounds: int = 4
    guidance: Reconstruction = "mse"
    guidance_scale: float = 60_000.0
    epsilon: float = 8 / 255
    reference_batch_size: int = 100
    renoise_reference: bool = True
    extra_level: bool = True
    variance: Variance = "large"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, choices in (
            ("guidance", self.guidance, get_args(Reconstruction)),
            ("variance", self.variance, get_args(Variance)),
        ):
            if value not in choices:
                raise ValueError(f"Expected {name} among {', '.join(choices)}, got {value!r}.")
        if not (self.rounds >= 1 and self.guidance_scale >= 0 and self.epsilon > 0 and self.reference_batch_size >= 1):
            raise ValueError(
                "Expected rounds >= 1, guidance_scale >= 0, epsilon > 0 and reference_batch_size >= 1, got "
                f"{self.rounds}, {self.guidance_scale}, {self.epsilon} and {self.reference_batch_size}."
            )
        if self.reverse_steps > self.levels:
            raise ValueError(f"Expected at most {self.levels} steps, one a level of t = {self.t}, got {self.steps}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.rounds * super().network_evaluations

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        n, step = self.reverse_steps, _Step(self, score, differentiated=gradient == "exact")

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def one(state: State, call: int) -> State:
                turn, k = divmod(call, n)
                x, given = state
                return step(x, given, noise, turn * (n + 1), k)

            x = to_model_space(images)
            x, _ = scan(one, (x, x), self.rounds * n, checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify


@dataclass(frozen=True)
class _Level:
    """Constants of an ancestral step, as Ho et al. 2020, Eqs. 6-7.

    Attributes:
        index: level before the step.
        following: level after it, -1 for the clean image.
        of_x0: weight of the predicted clean image in the mean.
        of_x: weight of the state.
        low: log of the posterior variance; that of the level above where `following` is -1.
        high: log of the step's beta.
    """

    index: int
    following: int
    of_x0: float
    of_x: float
    low: float
    high: float


def _levels(schedule: VPSchedule, path: list[int]) -> list[_Level]:
    found: list[_Level] = []
    for i, following in zip(path, [*path[1:], -1], strict=True):
        of_x0, of_x = schedule.posterior_mean_at(i, following)
        high, posterior = math.log(schedule.step_beta_at(i, following)), schedule.posterior_variance_at(i, following)
        low = math.log(posterior) if posterior else (found[-1].low if found else high)
        found.append(_Level(i, following, of_x0, of_x, low, high))
    return found


class _Step:
    """One guided ancestral step; the first of a round adds the round's noise."""

    def __init__(self, defense: GDMP, score: ScoreModel, *, differentiated: bool) -> None:
        self.defense, self.score, self.differentiated = defense, score, differentiated
        n = defense.reverse_steps
        path = [(k + 1) * defense.levels // n - 1 for k in reversed(range(n))]
        self.levels = _levels(score.schedule, path)
        self.start = min(path[0] + defense.extra_level, score.schedule.levels - 1)

    def __call__(self, x: Tensor, given: Tensor, noise: NoiseSource, first: int, k: int) -> State:
        """State x and the input, both in [-1, 1], after reverse step k (from 0) of the round whose noise starts at step
        `first`."""
        level, diffuse = self.levels[k], self.score.schedule.diffuse_at
        if k == 0:
            x = diffuse(x, self.start, noise.normal(x, step=first))
        eps, log_variance = self._predict(x, level)
        x0 = predict_x0(x, eps, self.score.schedule.alpha_bar_at(level.index)).clamp(-1, 1)
        mean = level.of_x0 * x0 + level.of_x * x
        if self.defense.guidance_scale:
            reference = given
            if self.defense.renoise_reference:
                reference = diffuse(given, level.index, noise.normal(x, step=first + k + 1, stream=1))
            mean = mean + log_variance.exp() * self.pull(x, reference, level.index)
        if level.following < 0:
            return mean, given
        return mean + (0.5 * log_variance).exp() * noise.normal(x, step=first + k + 1), given

    def pull(self, x: Tensor, reference: Tensor, index: int) -> Tensor:
        """The guidance before it is multiplied by the variance."""
        d = self.defense
        scale = reconstruction_scale(
            self.score.schedule.alpha_bar_at(index), guidance_scale=d.guidance_scale, epsilon=d.epsilon
        )
        guide = reconstruction_guide(x, reference, kind=d.guidance, differentiated=self.differentiated)
        return scale / d.reference_batch_size * guide

    def _predict(self, x: Tensor, level: _Level) -> tuple[Tensor, Tensor]:
        """Noise and log variance; a learned variance keeps its share of the range between this step's two ends."""
        index = indices(x, level.index)
        if self.defense.variance != "learned":
            ends = {"large": level.high if level.following >= 0 else level.low, "small": level.low}
            return self.score.epsilon_at(x, index), x.new_full((), ends[self.defense.variance])
        eps, learned = self.score.epsilon_and_log_variance(x, index)
        if learned is None:
            raise ValueError('Expected a network with a learned variance, got one without. Use variance="large".')
        low = self.score.schedule.clipped_log_variance_at(level.index)
        high = math.log(self.score.schedule.beta_at(level.index))
        return eps, level.low + (learned - low) / (high - low) * (level.high - level.low)
