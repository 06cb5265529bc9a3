"""Likelihood maximisation: golden numbers, second-order gradients, the ball, the released constant noise."""

import pytest
import torch
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import edm_toy, vp_toy

from defenses.likelihood_maximization import LikelihoodMaximization
from defenses.noise import Noise

G, META = load("likelihood_maximization")
VP, VP_META = load("denoiser_from_vp")
OUTPUTS = {
    "output": {},
    "output_eps_0.5": {"radius": 0.5},
    "output_dh": {"averages": "compounded"},
}


def noise(g: dict[str, Tensor], uniform: Tensor, rows: slice = slice(None)) -> RecordedNoise:
    steps = range(1, len(uniform) + 1)
    return RecordedNoise(
        {(0, k): g["noise"][k - 1][rows] for k in steps}, {(1, k): uniform[k - 1][rows] for k in steps}
    )


def run(x: Tensor, rows: slice = slice(None), **fields: object) -> Tensor:
    return LikelihoodMaximization(reference_batch_size=3, **fields).build(score=edm_toy(G))(
        x, noise(G, G["uniform"], rows)
    )


@pytest.mark.parametrize("key", OUTPUTS)
def test_golden_output(key: str) -> None:
    assert (run(G["x01"], **OUTPUTS[key]) - G[key]).abs().max() < META["arrays"][key]["tolerance"]


def gradient(**fields: object) -> Tensor:
    x = G["x01"].clone().requires_grad_()
    (run(x, **fields) * G["readout"]).sum().backward()
    return x.grad


@pytest.mark.parametrize(("key", "averages"), [("grad_exact", "plain"), ("grad_exact_dh", "compounded")])
def test_golden_exact_gradient(key: str, averages: str) -> None:
    assert (gradient(averages=averages) - G[key]).abs().max() < META["arrays"][key]["tolerance"]


def test_the_full_gradient_of_diffhammer_is_not_exact() -> None:
    """Their gradient of their own purifier has cosine 0.68 with the exact one, as the fixture records."""
    ours, theirs = gradient(averages="compounded").flatten(), G["grad_dh_reference"].flatten()
    recorded = META["agreement"]["DiffHammer's LM gradient vs exact gradient of its own purifier"]["cosine"]
    assert abs(torch.cosine_similarity(ours, theirs, dim=0) - recorded) < 1e-6


def test_golden_output_and_gradient_on_a_vp_network() -> None:
    x = VP["x01"].clone().requires_grad_()
    uniform = (VP["sigma_per_image"] - 0.4) / 0.2
    out = LikelihoodMaximization(reference_batch_size=3).build(score=vp_toy(VP))(x, noise(VP, uniform))
    assert (out - VP["output_lm"]).abs().max() < VP_META["arrays"]["output_lm"]["tolerance"]
    (out * VP["readout"]).sum().backward()
    assert (x.grad - VP["grad_exact_lm"]).abs().max() < VP_META["arrays"]["grad_exact_lm"]["tolerance"]


@pytest.mark.parametrize("fields", [{}, {"radius": 0.5}, {"averages": "compounded"}])
def test_exact_gradient_equals_finite_differences(fields: dict) -> None:
    direction, h = G["readout"].flip(-1) / 10, 1e-7
    ends = [(run(G["x01"] + s * h * direction, **fields) * G["readout"]).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (gradient(**fields) * direction).sum()) < 1e-5 * abs(numeric)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_checkpointing_changes_nothing(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradient()
    monkeypatch.setattr(LikelihoodMaximization, "checkpoint_every", every)
    assert torch.allclose(gradient(), expected, rtol=1e-9, atol=1e-11)


def test_value_is_the_same_without_gradients_and_without_batch_mates() -> None:
    with torch.no_grad():
        assert (run(G["x01"]) - run(G["x01"].clone().requires_grad_())).abs().max() < 1e-12
        assert (run(G["x01"][:1], slice(1)) - run(G["x01"])[:1]).abs().max() < 1e-12


def test_the_ball_bounds_the_distance() -> None:
    moved = (LikelihoodMaximization(radius=0.3).build(score=edm_toy(G)))(G["x01"], Noise(0, torch.arange(3))) - G["x01"]
    assert (moved.flatten(1).norm(dim=1) <= 0.3 + 1e-9).all()


def test_fixed_noise_is_the_same_for_every_image_seed_and_draw() -> None:
    defense = LikelihoodMaximization(fixed_noise=True)
    purify, twins = defense.build(score=edm_toy(G)), G["x01"][:1].repeat(2, 1, 1, 1)
    first = purify(twins, Noise(0, torch.arange(2)))
    assert torch.allclose(first[0], first[1], atol=1e-12)
    assert torch.equal(first, purify(twins, Noise(7, torch.arange(5, 7), 3)))
    assert not defense.stochastic and LikelihoodMaximization().stochastic
    assert not torch.allclose(LikelihoodMaximization().build(score=edm_toy(G))(twins, Noise(0, torch.arange(2))), first)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"sigma_low": 0.7}, {"radius": 0.0}, {"averages": "none"}])
def test_ranges_are_named(fields: dict) -> None:
    with pytest.raises(ValueError, match="Expected"):
        LikelihoodMaximization(**fields)
