"""Schedules against recorded numbers of the literature."""

import pytest
import torch
from golden import load

from defenses.diffusion.schedule import VPSchedule
from defenses.diffusion.solvers import time_grid

S = VPSchedule()


def test_continuous_and_discrete_tables() -> None:
    g, _ = load("schedules")
    assert torch.allclose(S.beta(g["t"]), g["beta_t"], rtol=1e-14)
    assert torch.allclose(S.alpha_bar(g["t"]), g["alphabar_cont"], rtol=1e-13)
    assert torch.allclose(S.sigma(g["t"]), g["std"], rtol=1e-12)
    assert torch.allclose(S.time_of(S.alpha_bar(g["t"])), g["t"], rtol=1e-9)
    levels = range(1000)
    assert torch.allclose(torch.tensor([S.alpha_bar_at(i) for i in levels]).double(), g["alphabar_disc"], rtol=1e-6)
    means = torch.tensor([S.posterior_mean_at(i) for i in levels], dtype=torch.float64)
    assert torch.allclose(means[:, 0], g["posterior_mean_coef1"], rtol=1e-10)
    assert torch.allclose(means[:, 1], g["posterior_mean_coef2"], rtol=1e-10)
    for kind in ("small", "large"):
        logs = torch.tensor([S.log_variance_at(i, kind) for i in levels], dtype=torch.float64)
        assert torch.allclose(logs, g[f"logvar_fixed{kind}"], rtol=1e-10)


@pytest.mark.parametrize("level", [100, 150])
@pytest.mark.parametrize("name", ["f32", "f64"])
def test_the_clock_reproduces_the_reference_indices(level: int, name: str) -> None:
    g, _ = load("schedules")
    dtype = torch.float32 if name == "f32" else torch.float64
    grid = time_grid(level / 1000, level, dtype=dtype)
    shown = [int(torch.trunc(torch.tensor(t, dtype=dtype).float() * 1000)) for t, _ in grid]
    assert shown == g[f"index_{level}_{name}"].tolist()
    ends = g[f"grid_{level}_{name}"]
    assert torch.allclose(torch.tensor([t for t, _ in grid]).double(), 1 - ends[:-1].double(), atol=1e-7)


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match=r"t in \(0, 1\]"):
        S.level(1.5)
    with pytest.raises(ValueError, match=r"0\.\.999"):
        S.alpha_bar_at(1000)
