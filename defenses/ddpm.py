"""Purification by ancestral sampling of a discrete diffusion model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddpm
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource

Variance = Literal["small", "large", "learned"]


@register
@dataclass(frozen=True, kw_only=True)
class DDPM(DiffusionPurifier):
    """DDPM purification (Ho, Jain & Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, Eqs. 4-7 and 15).

    Noise to the discrete level of t, then ancestral sampling down to the clean image, as DiffPure does on CelebA-HQ.
    The guided-diffusion sampler is variance="learned", clip_x0=True. DiffPure's code runs it without gradients, so its
    published robustness is against straight-through attacks. The surrogate of a learned variance has the small one.

    Attributes:
        steps: reverse steps, in 1 .. levels of t; None is every level; fewer skip levels as respaced models do.
        variance: of a reverse step: "small" is the posterior's, "large" is beta, "learned" the network's own (Nichol &
            Dhariwal, ICML 2021, Eq. 15; every level only).
        clip_x0: whether the predicted clean image is clipped to [-1, 1] in every step.
    """

    title: ClassVar[str] = "DDPM"
    source: ClassVar[str] = (
        "Ho, Jain & Abbeel, NeurIPS 2020, arXiv:2006.11239, Eqs. 4-7; used as in DiffPure's released code"
    )

    variance: Variance = "small"
    clip_x0: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(self.levels, self.reverse_steps)
        if self.variance not in get_args(Variance):
            raise ValueError(f"Expected variance among {', '.join(get_args(Variance))}, got {self.variance!r}.")
        if self.variance == "learned" and self.reverse_steps != self.levels:
            raise ValueError(
                f"A learned variance is that of single levels: expected steps None or {self.levels}, got {self.steps}. "
                'To skip levels use variance="small" or "large".'
            )

    def surrogate(self) -> Self:
        """The same purifier with a fifth of the steps; a single run."""
        cheap = replace(self, variance="small") if self.variance == "learned" else self
        return super(DDPM, cheap).surrogate()

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule, walk = score.schedule, sub_sequence(self.levels, self.reverse_steps)

        def step(x: Tensor, z: Tensor, index: int, following: int) -> Tensor:
            eps, log_variance = self._predict(score, x, index, following)
            x0 = predict_x0(x, eps, schedule.alpha_bar_at(index))
            if self.clip_x0:
                x0 = x0.clamp(-1, 1)
            return reverse_ddpm(
                x, x0, z, schedule=schedule, index=index, next_index=following, log_variance=log_variance
            )

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def move(state: State, k: int) -> State:
                return (step(state[0], noise.normal(state[0], step=k + 1), *walk[k]),)

            x = schedule.diffuse_at(to_model_space(images), self.levels - 1, noise.normal(images, step=0))
            (x,) = scan(move, (x,), len(walk), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    def _predict(self, score: ScoreModel, x: Tensor, index: int, following: int) -> tuple[Tensor, float | Tensor]:
        """Predicted noise, and the log variance of the step."""
        if self.variance != "learned":
            log_variance = score.schedule.log_variance_at(index, self.variance, following)
            return score.epsilon_at(x, indices(x, index)), log_variance
        eps, learned = score.epsilon_and_log_variance(x, indices(x, index))
        if learned is None:
            raise ValueError(
                'variance="learned" needs a network that predicts one (twice the image\'s channels), got one that '
                'does not. Use variance="small" or "large".'
            )
        return eps, learned
