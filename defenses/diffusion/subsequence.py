"""Noising to a discrete level and denoising along a sub-sequence of the levels below it."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.diffusion.scan import State, scan
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource


def sub_sequence(levels: int, steps: int) -> list[tuple[int, int]]:
    """(level index, next index) of `steps` evenly spread reverse steps from index levels - 1 to -1, the clean image."""
    if not 1 <= steps <= levels:
        raise ValueError(f"Expected 1 <= steps <= {levels}, the number of levels to walk down, got {steps}.")
    stops = [k * levels // steps - 1 for k in range(steps, -1, -1)]
    return list(zip(stops, stops[1:], strict=False))


def noise_and_denoise(
    x: Tensor,
    noise: NoiseSource,
    *,
    score: ScoreModel,
    levels: int,
    steps: int,
    eta: float,
    first: int = 0,
    checkpoint_every: int | None = None,
) -> Tensor:
    """Noise to level `levels - 1`, then denoise in a few steps of `reverse_ddim`, without clipping.

    Args:
        x: (batch, channels, height, width) in the [-1, 1] space.
        noise: of these images.
        score: the noise-prediction network.
        levels: discrete levels to walk down, >= 1.
        steps: reverse steps, in [1, levels].
        eta: 1 is DDPM, 0 the deterministic DDIM.
        first: step number of the forward noise in the noise's counting; the k-th reverse step's is first + k.
        checkpoint_every: see `scan`.

    Returns:
        Shape of x, in the [-1, 1] space.
    """
    schedule, walk = score.schedule, sub_sequence(levels, steps)

    def step(state: State, k: int) -> State:
        (x,) = state
        index, following = walk[k]
        eps = score.epsilon_at(x, indices(x, index))
        z = noise.normal(x, step=first + k + 1) if eta else torch.zeros_like(x)
        x0 = predict_x0(x, eps, schedule.alpha_bar_at(index))
        return (reverse_ddim(x0, eps, z, schedule=schedule, index=index, next_index=following, eta=eta),)

    start = schedule.diffuse_at(x, levels - 1, noise.normal(x, step=first))
    (x,) = scan(step, (start,), steps, checkpoint_every=checkpoint_every)
    return x
