"""One step of the reverse process: state and network output in, next state out.

All functions are pure. x: (batch, channels, height, width) in [-1, 1] space; eps: the network's noise prediction at
x, same shape; z: standard normal, same shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defenses.diffusion.schedule import VPSchedule

T_END = 1e-5  # where DiffPure's solvers stop: the score is singular at 0


def score_from_epsilon(eps: Tensor, sigma: float | Tensor) -> Tensor:
    """Score of the noised data: -eps / sigma (the one place where the two are related)."""
    return -eps / sigma


def time_grid(
    t: float, steps: int, *, dtype: torch.dtype = torch.float64, t_end: float = T_END
) -> list[tuple[float, float]]:
    """(time, step length) of `steps` reverse steps from t to t_end, the way DiffPure's integrator counts.

    The clock u = 1 - t advances by t / steps in `dtype` and stops at 1 - t_end. In float32 its rounding
    decides which integer level a discrete network is shown (METHODS.md, section 1), so the clock has the dtype of the
    state.
    """
    clock = torch.float64 if dtype == torch.float64 else torch.float32
    step = torch.tensor(t / steps, dtype=clock)
    u, end = torch.tensor(1 - t, dtype=clock), torch.tensor(1 - t_end, dtype=clock)
    grid = []
    for k in range(steps):
        following = end if k == steps - 1 else torch.minimum(u + step, end)
        grid.append((float(1 - u), float(following - u)))
        u = following
    return grid


def reverse_sde(x: Tensor, eps: Tensor, z: Tensor, *, schedule: VPSchedule, t: float, dt: float) -> Tensor:
    """Euler-Maruyama step of the reverse VP-SDE (Song et al. 2021, Eq. 6): from t to t - dt."""
    beta = schedule.beta(t)
    drift = 0.5 * beta * x + beta * score_from_epsilon(eps, schedule.sigma(t))
    return x + drift * dt + math.sqrt(beta * dt) * z


def reverse_ode(x: Tensor, eps: Tensor, *, schedule: VPSchedule, t: float, dt: float) -> Tensor:
    """Euler step of the probability-flow ODE (Song et al. 2021, Eq. 13): from t to t - dt."""
    beta = schedule.beta(t)
    return x + (0.5 * beta * x + 0.5 * beta * score_from_epsilon(eps, schedule.sigma(t))) * dt


def predict_x0(x: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """The clean state that (x, eps) imply (Ho et al. 2020, Eq. 15)."""
    return (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def reverse_ddpm(
    x: Tensor, x0: Tensor, z: Tensor, *, schedule: VPSchedule, index: int, log_variance: float | Tensor
) -> Tensor:
    """Ancestral step from level `index` to index - 1 given the predicted x0 (Ho et al. 2020, Eqs. 6-7); no noise at
    index 0."""
    of_x0, of_x = schedule.posterior_mean_at(index)
    mean = of_x0 * x0 + of_x * x
    if index == 0:
        return mean
    scale = torch.exp(0.5 * log_variance) if isinstance(log_variance, Tensor) else math.exp(0.5 * log_variance)
    return mean + scale * z


def reverse_ddim(
    x0: Tensor, eps: Tensor, z: Tensor, *, schedule: VPSchedule, index: int, next_index: int, eta: float
) -> Tensor:
    """Sub-sequence step from level `index` to `next_index` (Song et al., "DDIM", ICLR 2021, Eq. 12).

    eta: 1 is DDPM, 0 the deterministic DDIM. next_index -1 is the clean image.
    """
    a, a_next = schedule.alpha_bar_at(index), schedule.alpha_bar_at(next_index)
    noise = eta * math.sqrt((1 - a / a_next) * (1 - a_next) / (1 - a))
    direction = math.sqrt(max(1 - a_next - noise**2, 0.0))
    return math.sqrt(a_next) * x0 + noise * z + direction * eps
