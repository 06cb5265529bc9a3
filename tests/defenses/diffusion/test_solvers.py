"""Orders of convergence on Gaussian data, where the exact flow and the exact mean are known."""

import math

import pytest
import torch

from defenses.diffusion.schedule import VPSchedule
from defenses.diffusion.solvers import predict_x0, reverse_ddim, reverse_ddpm, reverse_ode, reverse_sde, time_grid

S = VPSchedule()
MEAN, STD, T = 0.3, 0.5, 0.5


def epsilon(x: torch.Tensor, t: float) -> torch.Tensor:
    """The exact noise prediction for data N(MEAN, STD**2)."""
    a, s = S.alpha_bar(t), S.sigma(t)
    return s * (x - math.sqrt(a) * MEAN) / (a * STD**2 + s**2)


def spread(t: float) -> float:
    return math.sqrt(S.alpha_bar(t) * STD**2 + S.sigma(t) ** 2)


def exact_flow(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """The probability-flow ODE keeps (x - sqrt(alpha_bar) MEAN) / spread."""
    centred = (x - math.sqrt(S.alpha_bar(start)) * MEAN) / spread(start)
    return math.sqrt(S.alpha_bar(end)) * MEAN + centred * spread(end)


X = torch.linspace(-2, 2, 9, dtype=torch.float64)


def ode_error(steps: int) -> float:
    x = X
    for t, dt in time_grid(T, steps, t_end=0.05):
        x = reverse_ode(x, epsilon(x, t), schedule=S, t=t, dt=dt)
    return float((x - exact_flow(X, T, 0.05)).abs().max())


def sde_mean_error(steps: int) -> float:
    """The drift is linear in x here, so the chain without noise is the mean of the chain with noise."""
    x = X
    for t, dt in time_grid(T, steps, t_end=0.05):
        x = reverse_sde(x, epsilon(x, t), torch.zeros_like(x), schedule=S, t=t, dt=dt)
    a = S.alpha_bar(T) / S.alpha_bar(0.05)  # the exact reverse mean: E[x_s | x_t] of a Gaussian
    gain = math.sqrt(a) * spread(0.05) ** 2 / spread(T) ** 2
    exact = math.sqrt(S.alpha_bar(0.05)) * MEAN + gain * (X - math.sqrt(S.alpha_bar(T)) * MEAN)
    return float((x - exact).abs().max())


@pytest.mark.parametrize("error", [ode_error, sde_mean_error])
def test_euler_is_of_order_one(error) -> None:
    errors = [error(steps) for steps in (100, 200, 400, 800)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 0.9 < math.log2(coarse / fine) < 1.1


def test_the_diffusion_adds_beta_dt_of_variance() -> None:
    z = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros_like(z)
    moved = reverse_sde(x, torch.zeros_like(x), z, schedule=S, t=0.3, dt=0.01)
    assert abs(float(moved.var()) / (S.beta(0.3) * 0.01) - 1) < 4 * math.sqrt(2 / len(z))


def test_ddim_follows_the_flow_and_ddpm_is_ddim_with_full_noise() -> None:
    """DDIM is exact in the limit; at eta 1 its mean and noise are those of the ancestral step."""
    z = torch.linspace(-1, 1, 9, dtype=torch.float64)
    i, a = 300, S.alpha_bar_at(300)
    eps = (X - math.sqrt(a) * MEAN) * math.sqrt(1 - a) / (a * STD**2 + 1 - a)
    x0 = predict_x0(X, eps, a)
    ancestral = reverse_ddpm(X, x0, z, schedule=S, index=i, log_variance=S.log_variance_at(i))
    assert torch.allclose(ancestral, reverse_ddim(x0, eps, z, schedule=S, index=i, next_index=i - 1, eta=1.0))
    moved, b = reverse_ddim(x0, eps, z, schedule=S, index=i, next_index=i - 1, eta=0.0), S.alpha_bar_at(i - 1)
    scale = math.sqrt(b * STD**2 + 1 - b) / math.sqrt(a * STD**2 + 1 - a)
    flow = math.sqrt(b) * MEAN + (X - math.sqrt(a) * MEAN) * scale
    assert float((moved - flow).abs().max()) < 1e-4
