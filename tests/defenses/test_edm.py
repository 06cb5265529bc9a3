"""One-shot and multi-step denoising: golden numbers, the Gaussian closed form, exact gradients."""

import pytest
import torch
from golden import RecordedNoise, load
from toy_denoisers import edm_toy, gaussian_score

from defenses.base import Purifier
from defenses.diffusion.schedule import to_model_space
from defenses.edm_multi_step import EDMMultiStep, edm_grid
from defenses.edm_one_shot import EDMOneShot
from defenses.noise import Noise

G, META = load("scoreopt")
CASES = {"oneshot_0.5": EDMOneShot(), "multistep_k11": EDMMultiStep()}
NOISE = RecordedNoise({(0, 0): G["noise"][0]})


@pytest.mark.parametrize("case", CASES)
def test_golden_output(case: str) -> None:
    out = CASES[case].build(score=edm_toy(G))(G["x01"], NOISE)
    assert (out - G[f"output_{case}"]).abs().max() < META["arrays"][f"output_{case}"]["tolerance"]


def test_golden_grid() -> None:
    assert torch.allclose(torch.tensor(edm_grid(18), dtype=torch.float64), G["edm_sigmas_18"], rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_exact_gradient_equals_finite_differences(case: str) -> None:
    purify, x = CASES[case].build(score=edm_toy(G)), G["x01"].clone().requires_grad_()
    (purify(x, NOISE) * G["readout"]).sum().backward()
    direction, h = G["readout"].flip(-1), 1e-5
    ends = [(purify(G["x01"] + s * h * direction, NOISE) * G["readout"]).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (x.grad * direction).sum()) < 1e-7 * abs(numeric)


MEAN, STD, N = 0.1, 0.1, 8_000  # narrow: nothing reaches the clip


def moments(defense: Purifier) -> tuple[float, float]:
    """Mean and variance, in [-1, 1] units, of what the defense makes of the image 0.6 on Gaussian data."""
    images = torch.full((N, 1, 1, 1), 0.6, dtype=torch.float64)
    out = to_model_space(defense.build(score=gaussian_score(MEAN, STD))(images, Noise(0, torch.arange(N))))
    return out.mean().item(), out.var().item()


def test_one_shot_gives_the_posterior_mean() -> None:
    gain = STD**2 / (STD**2 + 0.5**2)
    mean, variance = moments(EDMOneShot(sigma=0.5))
    assert abs(mean - (MEAN + gain * (0.2 - MEAN))) < 4 * gain * 0.5 / N**0.5
    assert abs(variance / (gain * 0.5) ** 2 - 1) < 4 * (2 / N) ** 0.5


def test_many_steps_follow_the_probability_flow() -> None:
    """dy/dsigma = sigma (y - MEAN) / (STD^2 + sigma^2) scales y - MEAN by STD / sqrt(STD^2 + sigma^2)."""
    defense = EDMMultiStep(levels=600, start=400)
    sigma = edm_grid(600)[400]
    scale = STD / (STD**2 + sigma**2) ** 0.5
    mean, variance = moments(defense)
    assert abs(mean - (MEAN + scale * (0.2 - MEAN))) < 4 * scale * sigma / N**0.5 + 2e-3
    assert abs(variance / (scale * sigma) ** 2 - 1) < 4 * (2 / N) ** 0.5 + 1e-2


def test_ranges_are_named() -> None:
    for cls, fields in ((EDMOneShot, {"sigma": 0.0}), (EDMMultiStep, {"start": 18}), (EDMMultiStep, {"levels": 1})):
        with pytest.raises(ValueError, match="Expected"):
            cls(**fields)
