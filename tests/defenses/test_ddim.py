"""DDIM purification: golden numbers (Lee & Kim's DiffPure-like settings) and the probability-flow closed form."""

import pytest
import torch
from closed_forms import SCHEDULE, assert_exact_gradient, flow_round_trip, gaussian_score
from golden import RecordedNoise, load, sampler_noise, toy_score

from defenses.ddim import DDIM
from defenses.diffusion.schedule import to_model_space
from defenses.noise import Noise

G, META = load("lee_kim")
SCORE = toy_score(G, tau=lambda label: label / 1000)


@pytest.mark.parametrize(("kind", "eta"), [("ddim", 0.0), ("ddpm", 1.0)])
def test_golden_output_and_gradient(kind: str, eta: float) -> None:
    recorded = G[f"noise_{kind}_200_5"]
    x = G["x01"].clone().requires_grad_()
    purify = DDIM(t=0.2, steps=5, eta=eta).build(score=SCORE)
    out = purify(x, RecordedNoise(sampler_noise(recorded[0], recorded[1:])))
    assert (out - G[f"output_{kind}_200_5"]).abs().max() < META["arrays"][f"output_{kind}_200_5"]["tolerance"]
    torch.nn.functional.cross_entropy(out.flatten(1) @ G["A"].T, G["labels"], reduction="sum").backward()
    assert (x.grad - G[f"grad_{kind}_200_5"]).abs().max() < 1e-9


def test_every_level_and_no_noise_follow_the_probability_flow() -> None:
    """With e the same, the error against the exact affine flow falls in proportion to the step."""
    images, noise = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).view(5, 1, 1, 1), Noise(0, torch.arange(5))
    exact = flow_round_trip(to_model_space(images), noise.normal(images, step=0), SCHEDULE.alpha_bar_at(199))
    errors = []
    for steps in (50, 100, 200):
        out = DDIM(t=0.2, steps=steps).build(score=gaussian_score(discrete=True))(images, noise)
        errors.append(float((to_model_space(out) - exact).abs().max()))
    assert errors[2] < 3e-3
    assert all(1.7 < coarse / fine < 2.3 for coarse, fine in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_exact_gradient(eta: float) -> None:
    purify = DDIM(t=0.1, steps=6, eta=eta).build(score=SCORE)
    assert_exact_gradient(lambda x: purify(x, Noise(3, torch.arange(4))), G["x01"])


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="Expected 1 <= steps <= 100"):
        DDIM(steps=101)
    with pytest.raises(ValueError, match=r"eta in \[0, 1\]"):
        DDIM(eta=1.5)
