"""DiffPure with the reverse VP-SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.adjoint import sde_adjoint
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import reverse_sde, time_grid
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class DiffPureSDE(DiffusionPurifier):
    """DiffPure (Nie et al., "Diffusion Models for Adversarial Purification", ICML 2022, Eqs. 4-6).

    Noise to the discrete level of t, then Euler-Maruyama on the reverse VP-SDE from t to 1e-5. Noise is added in the
    last step too; nothing is clipped. One round (the authors' `sample_step` 1). Their integrator calls the network once
    more before it starts (torchsde's contract check), which changes nothing here and is left out. It has no fields of
    its own. gradient="adjoint" is the authors' own attack gradient, see `sde_adjoint`; without gradients it makes no
    difference.
    """

    title: ClassVar[str] = "DiffPure (SDE)"
    source: ClassVar[str] = "Nie et al., ICML 2022, arXiv:2205.07460, Eqs. 4-6"
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "adjoint", "surrogate")

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule = score.schedule

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x = schedule.diffuse_at(to_model_space(images), self.levels - 1, noise.normal(images, step=0))
            if gradient == "adjoint" and torch.is_grad_enabled() and x.requires_grad:
                return to_image_space(sde_adjoint(x, noise, score=score, t=self.t, steps=self.reverse_steps))
            grid = time_grid(self.t, self.reverse_steps, dtype=images.dtype)

            def step(state: State, k: int) -> State:
                (x,) = state
                t, dt = grid[k]
                z = noise.normal(x, step=k + 1)
                return (reverse_sde(x, score.epsilon(x, times(x, t)), z, schedule=schedule, t=t, dt=dt),)

            (x,) = scan(step, (x,), len(grid), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify
