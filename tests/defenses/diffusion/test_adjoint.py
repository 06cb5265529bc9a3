"""The continuous adjoint: golden gradients, the replayed Brownian path, closeness to the exact gradient."""

import math

import pytest
import torch
from golden import RecordedNoise, load, sampler_noise, toy_score
from torch import Tensor

from defenses.base import Purifier
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.adjoint import BRIDGE_STREAM, ReplayedPath, aligned_sde_adjoint
from defenses.diffusion.schedule import to_model_space
from defenses.diffusion.solvers import time_grid
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

G, META = load("diffpure_sde")


def recorded() -> RecordedNoise:
    """The sampler's normals, and a bridge normal for each step but the last, recorded from the last one backwards."""
    bridges = {(BRIDGE_STREAM, 99 - j): z for j, z in enumerate(G["zb"][:99])}
    return RecordedNoise({**sampler_noise(G["e"], G["z"]), **bridges})


def loss_of(out: Tensor, g: dict[str, Tensor]) -> Tensor:
    return torch.nn.functional.cross_entropy(out.flatten(1) @ g["A"].T, g["labels"], reduction="sum")


def gradient(defense: Purifier, g: dict[str, Tensor], noise: RecordedNoise, kind: str) -> tuple[Tensor, Tensor]:
    """Output and input gradient of the fixture's loss."""
    x = g["x01"].clone().requires_grad_()
    out = defense.build(score=toy_score(g), gradient=kind)(x, noise)
    loss_of(out, g).backward()
    assert x.grad is not None
    return out.detach(), x.grad


def test_sde_adjoint_is_torchsdes() -> None:
    out, found = gradient(DiffPureSDE(t=0.1), G, recorded(), "adjoint")
    assert (to_model_space(out) - G["output"]).abs().max() < META["arrays"]["output"]["tolerance"]
    assert (found - G["grad_adjoint"]).abs().max() < 1e-9
    assert (found - G["grad_exact"]).abs().max() > 1e-2


def test_aligned_adjoint() -> None:
    out = G["output"].clone().requires_grad_()
    (cotangent,) = torch.autograd.grad(loss_of((out + 1) / 2, G), out)
    a = aligned_sde_adjoint(G["output"], cotangent, recorded(), score=toy_score(G), t=0.1, steps=100)
    to_input = 2 * math.sqrt(toy_score(G).schedule.alpha_bar_at(99))
    assert (to_input * a - G["grad_adjoint_aligned"]).abs().max() < 1e-9


def test_ode_adjoint_is_torchdiffeqs() -> None:
    g, meta = load("diffpure_ode")
    noise = RecordedNoise({(0, 0): g["e"]})
    out, found = gradient(DiffPureODE(t=0.1), g, noise, "adjoint")
    assert (to_model_space(out) - g["output"]).abs().max() < meta["arrays"]["output"]["tolerance"]
    assert (found - g["grad_adjoint"]).abs().max() < 1e-9
    assert (found - g["grad_exact"]).abs().max() > 1e-3


@pytest.mark.parametrize("defense", [DiffPureSDE(t=0.05, steps=20), DiffPureODE(t=0.05, steps=20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_value_in_every_mode(defense: Purifier, dtype: torch.dtype) -> None:
    score = toy_score({k: v.to(dtype) for k, v in G.items() if k.startswith("net")})
    noise, images = Noise(0, torch.arange(4)), G["x01"].to(dtype)
    exact = defense.build(score=score)(images, noise)
    adjoint = defense.build(score=score, gradient="adjoint")
    assert torch.equal(adjoint(images, noise), exact)
    recorded_value = adjoint(images.clone().requires_grad_(), noise)
    assert recorded_value.dtype == dtype
    assert (recorded_value - exact).abs().max() < (1e-5 if dtype == torch.float32 else 1e-13)


def test_network_calls() -> None:
    calls: list[int] = []
    toy = toy_score(G)

    def network(x: Tensor, label: Tensor) -> Tensor:
        calls.append(len(x))
        return toy.network(x, label)

    x = G["x01"].clone().requires_grad_()
    score = NetworkScore(network, (3, 8, 8))
    out = DiffPureSDE(t=0.1).build(score=score, gradient="adjoint")(x, recorded())
    assert len(calls) == META["meta"]["adjoint_forward_calls"]
    out.sum().backward()
    assert len(calls) - META["meta"]["adjoint_forward_calls"] == META["meta"]["adjoint_backward_calls"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_path_replays_the_steps_and_adds_up(dtype: torch.dtype) -> None:
    like, steps = torch.empty(2, 1, 3, 3, dtype=dtype), 10
    noise = Noise(7, torch.arange(2))
    path = ReplayedPath(noise, like, 0.1, steps)
    clock = [1 - t for t, _ in time_grid(0.1, steps, dtype=dtype)] + [1 - 1e-5]
    for k, (_, dt) in enumerate(time_grid(0.1, steps, dtype=dtype)):
        z = noise.normal(like, step=k + 1).flatten(1)
        assert torch.allclose(path(clock[k], clock[k + 1]), math.sqrt(dt) * z, atol=1e-7)
    inner = [0.9, 0.9034, 0.91, 0.9471, 0.99, 1 - 1e-5]
    pieces = sum(path(a, b) for a, b in zip(inner, inner[1:], strict=False))
    assert torch.allclose(pieces, path(0.9, 1 - 1e-5), atol=1e-6)


def test_path_is_brownian() -> None:
    """Increments between times inside different steps have the variance of their length, and do not correlate."""
    rows = 4000
    path = ReplayedPath(Noise(1, torch.arange(rows)), torch.empty(rows, 1, 1, 1, dtype=torch.float64), 0.1, 5)
    times = [0.9, 0.905, 0.9313, 0.9499, 0.975, 1 - 1e-5]
    increments = [path(a, b).flatten() for a, b in zip(times, times[1:], strict=False)]
    scaled = torch.stack([w / math.sqrt(b - a) for w, a, b in zip(increments, times, times[1:], strict=False)])
    assert (torch.cov(scaled) - torch.eye(5)).abs().max() < 4.5 * math.sqrt(2 / rows)
