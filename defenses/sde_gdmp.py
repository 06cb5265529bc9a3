"""GDMP's guidance on the reverse VP-SDE: the baseline that the contrastive paper's authors ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.guidance import reconstruction_guide, reconstruction_scale
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import reverse_sde, time_grid
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class SDEGDMP(DiffusionPurifier):
    """Reverse VP-SDE with GDMP's MSE guidance in its score, a baseline in the released code of Bai et al. (ICML 2024).

    DiffPure whose score gains, at every step, a pull towards the input noised afresh to the discrete level of that
    step (Wang et al., 2022, arXiv:2205.14969). The released code has one round of 100 levels and a guidance 60 times
    weaker than GDMP's own. Here the result does not depend on the batch, and the integrator's contract check, which
    draws noise to no effect, is left out. gradient="exact" differentiates the guidance too.

    Attributes:
        guidance_scale: weight of the guidance, >= 0; 0 is DiffPure.
        epsilon: perturbation that the guidance expects, image units, > 0; the source keeps 8/255 whatever the attack.
        reference_batch_size: the source averages its guidance over the batch, so its published strength holds for this
            many images a batch, >= 1.
    """

    title: ClassVar[str] = "GDMP (SDE)"
    source: ClassVar[str] = "Bai et al., ICML 2024, PMLR 235:2375-2391, baseline; released code"
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "guidance_detached", "surrogate")

    guidance_scale: float = 1000.0
    epsilon: float = 8 / 255
    reference_batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.guidance_scale >= 0 and self.epsilon > 0 and self.reference_batch_size >= 1):
            raise ValueError(
                "Expected guidance_scale >= 0, epsilon > 0 and reference_batch_size >= 1, got "
                f"{self.guidance_scale}, {self.epsilon} and {self.reference_batch_size}."
            )

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        schedule, differentiated = score.schedule, gradient == "exact"
        guided_levels = self.guided_levels()

        def pull(x: Tensor, given: Tensor, zg: Tensor, k: int) -> Tensor:
            index = guided_levels[k]
            scale = reconstruction_scale(
                schedule.alpha_bar_at(index), guidance_scale=self.guidance_scale, epsilon=self.epsilon
            )
            guide = reconstruction_guide(x, schedule.diffuse_at(given, index, zg), differentiated=differentiated)
            return scale / self.reference_batch_size * guide

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            given = to_model_space(images)
            x = schedule.diffuse_at(given, self.levels - 1, noise.normal(images, step=0))
            grid = time_grid(self.t, self.reverse_steps, dtype=images.dtype)

            def step(state: State, k: int) -> State:
                x, given = state
                t, dt = grid[k]
                zg = noise.normal(x, step=k + 1, stream=1)
                eps = score.epsilon(x, times(x, t)) - schedule.sigma(t) * pull(x, given, zg, k)
                return reverse_sde(x, eps, noise.normal(x, step=k + 1), schedule=schedule, t=t, dt=dt), given

            x, _ = scan(step, (x, given), len(grid), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    def guided_levels(self) -> list[int]:
        """Discrete level of the reference at every step: trunc(1000 t), the clock counted in float32 as in the
        source."""
        clock = [t for t, _ in time_grid(self.t, self.reverse_steps, dtype=torch.float32)]
        return (torch.tensor(clock) * 1000).trunc().clamp(0, 999).int().tolist()
