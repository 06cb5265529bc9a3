"""One step of the reverse process: state and network output in, next state out.

All functions are pure. In all of them x is a state, (batch, channels, height, width) in the [-1, 1] space, eps the
network's noise prediction at x, x0 a predicted clean state and z standard normals, all of the shape of x.
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
    """Times and lengths of reverse steps, the way DiffPure's integrator counts.

    The clock u = 1 - t advances by t / steps and stops at 1 - t_end. In float32 its rounding decides which integer
    level a discrete network is shown, so the clock has the dtype of the state.

    Args:
        t: diffusion time where the steps begin, in (0, 1].
        steps: how many, >= 1.
        dtype: of the state; the clock is float64 for float64 states, else float32.
        t_end: where the last step ends.

    Returns:
        (time, step length) of each step.
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


def reverse_drift(x: Tensor, eps: Tensor, *, schedule: VPSchedule, t: float, score_share: float = 1.0) -> Tensor:
    """Drift beta (x / 2 + score_share * score) on the clock 1 - t: share 1 is the reverse SDE's, 1/2 the ODE's."""
    beta = schedule.beta(t)
    return 0.5 * beta * x + score_share * beta * score_from_epsilon(eps, schedule.sigma(t))


def reverse_sde(x: Tensor, eps: Tensor, z: Tensor, *, schedule: VPSchedule, t: float, dt: float) -> Tensor:
    """Euler-Maruyama step of the reverse VP-SDE (Song et al. 2021, Eq. 6): from t to t - dt."""
    return x + reverse_drift(x, eps, schedule=schedule, t=t) * dt + math.sqrt(schedule.beta(t) * dt) * z


def reverse_ode(x: Tensor, eps: Tensor, *, schedule: VPSchedule, t: float, dt: float) -> Tensor:
    """Euler step of the probability-flow ODE (Song et al. 2021, Eq. 13): from t to t - dt."""
    return x + reverse_drift(x, eps, schedule=schedule, t=t, score_share=0.5) * dt


def predict_x0(x: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """The clean state that (x, eps) imply (Ho et al. 2020, Eq. 15)."""
    return (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def reverse_ddpm(
    x: Tensor,
    x0: Tensor,
    z: Tensor,
    *,
    schedule: VPSchedule,
    index: int,
    log_variance: float | Tensor,
    next_index: int | None = None,
) -> Tensor:
    """Ancestral step given the predicted clean state; a step to the clean image adds no noise.

    Ho et al. 2020, Eqs. 6-7; where levels are skipped, with the step's own beta (Nichol & Dhariwal, "Improved denoising
    diffusion probabilistic models", ICML 2021, section 4).

    Args:
        x: state.
        x0: predicted clean state.
        z: standard normals.
        schedule: of the network.
        index: level of x.
        log_variance: of the step, one or shape of x.
        next_index: level after the step, -1 for the clean image; None is index - 1.
    """
    of_x0, of_x = schedule.posterior_mean_at(index, next_index)
    mean = of_x0 * x0 + of_x * x
    if index == 0 or next_index == -1:
        return mean
    scale = torch.exp(0.5 * log_variance) if isinstance(log_variance, Tensor) else math.exp(0.5 * log_variance)
    return mean + scale * z


def reverse_ddim(
    x0: Tensor, eps: Tensor, z: Tensor, *, schedule: VPSchedule, index: int, next_index: int, eta: float
) -> Tensor:
    """Sub-sequence step (Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, Eq. 12).

    Args:
        x0: predicted clean state.
        eps: predicted noise.
        z: standard normals.
        schedule: of the network.
        index: level of the state.
        next_index: level after the step, -1 for the clean image.
        eta: 1 is DDPM, 0 the deterministic DDIM.
    """
    a, a_next = schedule.alpha_bar_at(index), schedule.alpha_bar_at(next_index)
    noise = eta * math.sqrt((1 - a / a_next) * (1 - a_next) / (1 - a))
    direction = math.sqrt(max(1 - a_next - noise**2, 0.0))
    return math.sqrt(a_next) * x0 + noise * z + direction * eps
