"""DiffPure with the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.adjoint import ode_adjoint
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import reverse_ode, time_grid
from defenses.field_types import check_range
from defenses.models.score_models import ScoreModel, times
from defenses.noise import Noise, NoiseSource
from defenses.traits import per_instance


@register
@dataclass(frozen=True, kw_only=True)
class DiffPureODE(DiffusionPurifier):
    """DiffPure by the probability-flow ODE (Nie et al., ICML 2022, with Song et al., ICLR 2021, Eq. 13).

    Noise to the discrete level of t, then explicit Euler on the ODE from t to 1e-5; only the forward noise is random.
    gradient="adjoint" is the authors' own attack gradient, see `ode_adjoint`; without gradients it makes no difference.

    Attributes:
        fixed_noise_seed: an integer gives every image, in every answer, the one noise image of that seed, and the
            defense is deterministic (the authors' `fix_rand`); None draws anew.
    """

    title: ClassVar[str] = "DiffPure (ODE)"
    source: ClassVar[str] = "Nie et al., ICML 2022, arXiv:2205.07460, released code; Song et al., ICLR 2021, Eq. 13"
    stochastic: ClassVar[bool] = per_instance(True, lambda self: self.fixed_noise_seed is None)
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "adjoint", "surrogate")

    fixed_noise_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, None, "fixed_noise_seed")

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule = score.schedule

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x = schedule.diffuse_at(to_model_space(images), self.levels - 1, self._forward_noise(images, noise))
            if gradient == "adjoint" and torch.is_grad_enabled() and x.requires_grad:
                return to_image_space(ode_adjoint(x, score=score, t=self.t, steps=self.reverse_steps))
            grid = time_grid(self.t, self.reverse_steps, dtype=images.dtype)

            def step(state: State, k: int) -> State:
                (x,) = state
                t, dt = grid[k]
                return (reverse_ode(x, score.epsilon(x, times(x, t)), schedule=schedule, t=t, dt=dt),)

            (x,) = scan(step, (x,), len(grid), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    def _forward_noise(self, images: Tensor, noise: NoiseSource) -> Tensor:
        if self.fixed_noise_seed is not None:
            noise = Noise(self.fixed_noise_seed, torch.zeros(len(images), dtype=torch.int64))
        return noise.normal(images, step=0)
