"""The continuous adjoint: the gradient that DiffPure's authors attack with, kept for comparison with the exact one.

It solves the adjoint equations of the continuous process backwards in time (Li et al., "Scalable gradients for
stochastic differential equations", AISTATS 2020, through torchsde; Chen et al., "Neural ordinary differential
equations", NeurIPS 2018, Algorithm 1, through torchdiffeq), so it is not the gradient of the steps that ran.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import Tensor

from defenses.diffusion.solvers import T_END, reverse_drift, time_grid
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource

BRIDGE_STREAM = 255  # normals of the Brownian path between the solver's own times
_SNAP = 1e-6  # clock times closer than this are the same: float32 clocks forward and backward round differently


def sde_adjoint(x: Tensor, noise: NoiseSource, *, score: ScoreModel, t: float, steps: int) -> Tensor:
    """Euler-Maruyama on the reverse VP-SDE from t, as `scan` does it up to rounding, with torchsde's adjoint gradient.

    The network is called steps + 1 times forward (torchsde checks its contract with one call) and steps times
    backward.

    Args:
        x: (batch, channels, height, width), state at time t in the [-1, 1] space; only x receives a gradient.
        noise: of these images; step k drives reverse step k.
        score: the noise-prediction network.
        t: diffusion time, in (0, 1].
        steps: reverse steps, >= 1.

    Returns:
        The state at time 1e-5, shape of x.
    """
    from torchsde import sdeint_adjoint

    y = sdeint_adjoint(
        _ReverseSDE(score, x),
        x.flatten(1),
        torch.tensor([1 - t, 1 - T_END], dtype=_clock(x)),
        bm=ReplayedPath(noise, x, t, steps),
        method="euler",
        dt=t / steps,
        adjoint_params=(),
    )
    return y[-1].view_as(x)


def ode_adjoint(x: Tensor, *, score: ScoreModel, t: float, steps: int) -> Tensor:
    """Euler on the probability-flow ODE from t, as `scan` does it up to rounding, with torchdiffeq's adjoint gradient.

    Args:
        x: (batch, channels, height, width), state at time t in the [-1, 1] space; only x receives a gradient.
        score: the noise-prediction network.
        t: diffusion time, in (0, 1].
        steps: steps, >= 1.

    Returns:
        The state at time 1e-5, shape of x.
    """
    from torchdiffeq import odeint_adjoint

    def velocity(time: Tensor, x: Tensor) -> Tensor:
        t = float(time.detach())
        return -reverse_drift(x, score.epsilon(x, times(x, t)), schedule=score.schedule, t=t, score_share=0.5)

    ends = torch.tensor([t, T_END], dtype=_clock(x), device=x.device)
    options = {"step_size": t / steps}
    return odeint_adjoint(velocity, x, ends, method="euler", options=options, adjoint_params=())[-1]


def aligned_sde_adjoint(
    x_end: Tensor, cotangent: Tensor, noise: NoiseSource, *, score: ScoreModel, t: float, steps: int
) -> Tensor:
    """The adjoint of `sde_adjoint` on the forward grid itself, which torchsde's backward grid misses by 1e-5.

    What remains of the adjoint's error is then not the grid's.

    Args:
        x_end: (batch, channels, height, width), the state where the forward solve ended, [-1, 1] space.
        cotangent: gradient of a loss with respect to it, same shape.
        noise: what drove the forward solve.
        score: the noise-prediction network.
        t: diffusion time where the forward solve began, in (0, 1].
        steps: its steps.

    Returns:
        Gradient with respect to the state at time t, same shape.
    """
    x, a = x_end, cotangent
    for k, (start, dt) in reversed(list(enumerate(time_grid(t, steps, dtype=x_end.dtype)))):
        t_k = start - dt
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            drift = reverse_drift(x, score.epsilon(x, times(x, t_k)), schedule=score.schedule, t=t_k)
            (pulled,) = torch.autograd.grad(drift, x, a)
        a = a + dt * pulled
        z = noise.normal(x_end, step=k + 1)
        x = x.detach() - dt * drift.detach() - math.sqrt(score.schedule.beta(t_k) * dt) * z
    return a


class _ReverseSDE:
    """The reverse VP-SDE on the clock u = 1 - t, for torchsde: states are flat, (batch, pixels)."""

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, score: ScoreModel, like: Tensor) -> None:
        self.score, self.shape = score, like.shape

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        t, x = float(1 - u), y.view(self.shape)
        return reverse_drift(x, self.score.epsilon(x, times(x, t)), schedule=self.score.schedule, t=t).flatten(1)

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, math.sqrt(self.score.schedule.beta(float(1 - u))))


class ReplayedPath:
    """A Brownian path on the clock u = 1 - t that replays a purifier's noise; what torchsde expects as `bm`.

    Over reverse step k = 1..steps it grows by sqrt(dt) z_k, z_k the purifier's normal of that step. Inside a step it
    is a Brownian bridge, driven by one more normal a step: a solver with fixed steps of the same length asks for one
    inner time a step at most (two of the same step would share their normal).
    """

    levy_area_approximation = "none"

    def __init__(self, noise: NoiseSource, like: Tensor, t: float, steps: int) -> None:
        self.noise, self.like = noise, like.detach()
        self.shape, self.dtype, self.device = like.flatten(1).shape, like.dtype, like.device
        self.widths = [dt for _, dt in time_grid(t, steps, dtype=like.dtype)]
        self.knots = [float(torch.tensor(1 - t, dtype=_clock(like)))]
        for dt in self.widths:
            self.knots.append(self.knots[-1] + dt)

    def __call__(
        self, ta: Tensor | float, tb: Tensor | float, return_U: bool = False, return_A: bool = False
    ) -> Tensor:
        """Increment of the path from clock time ta to tb, (batch, pixels)."""
        first, last = self._cell(float(ta)), self._cell(float(tb))
        increment = self._inside(last, float(tb)) - self._inside(first, float(ta))
        for k in range(first, last):
            increment = increment + math.sqrt(self.widths[k]) * self.noise.normal(self.like, step=k + 1)
        return increment.flatten(1)

    def _cell(self, u: float) -> int:
        """The step that holds u: knots[cell] <= u, up to rounding; `steps` at the end of the clock."""
        return max(bisect_right(self.knots, u + _SNAP) - 1, 0)

    def _inside(self, cell: int, u: float) -> Tensor:
        """The path from the start of the step to u."""
        past = u - self.knots[cell]
        if past <= _SNAP:
            return torch.zeros_like(self.like)
        width = self.widths[cell]
        z, bridge = (self.noise.normal(self.like, step=cell + 1, stream=stream) for stream in (0, BRIDGE_STREAM))
        return past / math.sqrt(width) * z + math.sqrt(past * (width - past) / width) * bridge


def _clock(x: Tensor) -> torch.dtype:
    """The dtype in which the solver's clock runs; the same as in `time_grid`."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
