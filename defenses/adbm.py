"""ADBM: a few steps of a network that was fine-tuned to lead from attacked, noised images back to clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import VPSchedule, clip, scan, to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource

Sampler = Literal["ddim", "ddpm"]
ADBM_SCHEDULE = VPSchedule(beta_min=1e-3)  # betas from 1e-6, where the usual schedule has 1e-4
LAST = ADBM_SCHEDULE.levels - 1


@register
@dataclass(frozen=True, kw_only=True)
class ADBM(DiffusionPurifier):
    """Adversarial diffusion bridge model (Li et al., "ADBM: Adversarial diffusion bridge model", ICLR 2025).

    Its sampler: noise, then a few evenly spread levels down, the predicted clean image clipped, on a schedule that
    starts at 1e-6. The method is the network, fine-tuned so that the clean image is the end of the way from an
    attacked one (`bench.training.adbm` has the objective); an ordinary score network makes it DDIM on that schedule.
    The authors attack the exact gradient; the surrogate is ours, with a fifth of the steps.

    Attributes:
        t: diffusion time of the forward noise, in (0, 1]; noise is added to level index 1000 t, one more than the
            first reverse step starts from, as released.
        steps: reverse steps, in 1 .. levels of t; None is every level.
        sampler: "ddim", deterministic after the forward noise, or "ddpm", whose last step adds noise, too (0.06 in
            [-1, 1] units for t = 0.1 and 5 steps), as released.
        rounds: how often noise and reverse steps are repeated, >= 1.
    """

    title: ClassVar[str] = "ADBM"
    source: ClassVar[str] = "Li et al., ICLR 2025, arXiv:2408.00315; released code"
    published_caveat: ClassVar[str] = (
        "Published with a network fine-tuned on attacked images of one classifier; any other network makes this a "
        "short DDIM. The last iterate of PGD is judged by one draw."
    )

    steps: int | None = 5
    sampler: Sampler = "ddim"
    rounds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(self.levels, self.reverse_steps)
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"Expected sampler among {', '.join(get_args(Sampler))}, got {self.sampler!r}.")
        if self.rounds < 1:
            raise ValueError(f"Expected rounds >= 1, got {self.rounds}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.rounds * super().network_evaluations

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        walk = sub_sequence(self.levels, self.reverse_steps)
        n, forward = len(walk), min(self.levels, LAST)
        move = _ddpm if self.sampler == "ddpm" else _ddim

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, call: int) -> State:
                (x,) = state
                turn, k = divmod(call, n)
                first = turn * (n + 1)
                if k == 0:
                    x = ADBM_SCHEDULE.diffuse_at(x, forward, noise.normal(x, step=first))
                index, following = walk[k]
                eps = score.epsilon_at(x, indices(x, index))
                x0 = clip(predict_x0(x, eps, ADBM_SCHEDULE.alpha_bar_at(index)), -1, 1)
                z = noise.normal(x, step=first + k + 1) if self.sampler == "ddpm" else eps
                return (move(x, x0, eps, z, index, following),)

            (x,) = scan(step, (to_model_space(images),), self.rounds * n, checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify


def _ddim(x: Tensor, x0: Tensor, eps: Tensor, z: Tensor, index: int, following: int) -> Tensor:
    """A deterministic step; eps stays that of the network where x0 was clipped."""
    return reverse_ddim(x0, eps, z, schedule=ADBM_SCHEDULE, index=index, next_index=following, eta=0.0)


def _ddpm(x: Tensor, x0: Tensor, eps: Tensor, z: Tensor, index: int, following: int) -> Tensor:
    """An ancestral step with the step's own beta as variance; only a step from level 0 adds no noise."""
    of_x0, of_x = ADBM_SCHEDULE.posterior_mean_at(index, following)
    mean = of_x0 * x0 + of_x * x
    return mean + math.sqrt(ADBM_SCHEDULE.step_beta_at(index, following)) * z if index else mean
