"""DiffPure by the probability-flow ODE: golden numbers, the affine flow of Gaussian data, the fixed noise image."""

import torch
from closed_forms import SCHEDULE, assert_exact_gradient, flow_round_trip, gaussian_score
from golden import RecordedNoise, load, toy_score

from defenses.diffpure_ode import DiffPureODE
from defenses.diffusion.schedule import to_model_space
from defenses.diffusion.solvers import time_grid
from defenses.noise import Noise

G, META = load("diffpure_ode")


def test_golden_output_and_exact_gradient() -> None:
    """The adjoint gradient of the same fixture is in diffusion/test_adjoint.py."""
    x = G["x01"].clone().requires_grad_()
    out = DiffPureODE(t=0.1).build(score=toy_score(G))(x, RecordedNoise({(0, 0): G["e"]}))
    assert (to_model_space(out) - G["output"]).abs().max() < META["arrays"]["output"]["tolerance"]
    torch.nn.functional.cross_entropy(out.flatten(1) @ G["A"].T, G["labels"], reduction="sum").backward()
    assert (x.grad - G["grad_exact"]).abs().max() < 1e-9


def test_golden_time_grid() -> None:
    grid = time_grid(0.1, 100)
    found = torch.tensor([t for t, _ in grid] + [grid[-1][0] - grid[-1][1]], dtype=torch.float64)
    assert (found - G["time_grid"]).abs().max() < 1e-12


def test_gaussian_data_follow_the_affine_flow() -> None:
    """First order: the error that is the solver's falls with the step; what stays is the schedules' disagreement."""
    images, noise = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).view(5, 1, 1, 1), Noise(0, torch.arange(5))
    e, x = noise.normal(images, step=0), to_model_space(images)
    start = SCHEDULE.diffuse_at(x, 199, e)
    a = SCHEDULE.alpha_bar(0.2)
    exact = flow_round_trip(start / a**0.5, torch.zeros_like(start), a)
    outs = [DiffPureODE(t=0.2, steps=n).build(score=gaussian_score())(images, noise) for n in (100, 200, 400)]
    errors = [float((to_model_space(out) - exact).abs().max()) for out in outs]
    assert errors[2] < 2e-3
    assert all(1.7 < coarse / fine < 2.3 for coarse, fine in zip(errors, errors[1:], strict=False))


def test_fixed_noise_is_one_image_for_every_answer() -> None:
    defense = DiffPureODE(t=0.05, steps=5, fixed_noise_seed=4)
    assert not defense.stochastic and DiffPureODE().stochastic
    purify = defense.build(score=toy_score(G))
    out = purify(G["x01"], Noise(0, torch.arange(4)))
    assert torch.equal(out, purify(G["x01"], Noise(9, torch.arange(4) + 5, draws=3)))
    assert torch.equal(out[2:3], purify(G["x01"][2:3], Noise(0, torch.tensor([0]))))
    assert not torch.equal(
        out, DiffPureODE(t=0.05, steps=5).build(score=toy_score(G))(G["x01"], Noise(0, torch.arange(4)))
    )


def test_exact_gradient() -> None:
    purify = DiffPureODE(t=0.1, steps=8).build(score=toy_score(G))
    assert_exact_gradient(lambda x: purify(x, Noise(0, torch.arange(4))), G["x01"])
