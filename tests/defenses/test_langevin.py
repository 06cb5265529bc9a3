"""Langevin purification: golden numbers on an energy, the stationary law on Gaussian data, exact gradients."""

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import gaussian_score, vp_toy

from defenses.diffusion.denoise import FixedTimeScore
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.langevin import Langevin
from defenses.models.score_models import DataScore
from defenses.noise import Noise

G, META = load("langevin")
NOISE = RecordedNoise({(0, k + 1): z for k, z in enumerate(G["noise"])})
TOLERANCE = META["arrays"]["output"]["tolerance"]


class Energy:
    """score = -d/dx01 U(2 x01 - 1), U(x) = sum_c v_c sum log cosh(conv(x) + b)_c."""

    def score(self, x: Tensor) -> Tensor:
        bent = torch.tanh(F.conv2d(2 * x - 1, G["net_W"], G["net_b"], padding=1)) * G["net_v"].view(-1, 1, 1)
        return -2 * F.conv_transpose2d(bent, G["net_W"], padding=1)


def test_golden_output() -> None:
    assert isinstance(Energy(), DataScore)
    out = Langevin(steps=60).build(score=Energy())(G["x01"], NOISE)
    assert (out - G["output"]).abs().max() < TOLERANCE
    assert (to_model_space(out) - G["output_model_space"]).abs().max() < 2 * TOLERANCE


@pytest.mark.parametrize("every", [None, 0, 7])
def test_exact_gradient_equals_finite_differences(every: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Langevin, "checkpoint_every", every)
    purify, x = Langevin(steps=20, noise_scale=0.02).build(score=Energy()), G["x01"].clone().requires_grad_()
    readout = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (purify(x, NOISE) * readout).sum().backward()
    direction, h = readout.flip(-1), 1e-5
    ends = [(purify(G["x01"] + s * h * direction, NOISE) * readout).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (x.grad * direction).sum()) < 1e-7 * abs(numeric)


@pytest.mark.parametrize("temperature", [None, 4.0])
def test_gaussian_data_give_the_stationary_law_of_the_blurred_data(temperature: float | None) -> None:
    """Pixels N(0.6, 0.2^2) blurred by s: x - mean shrinks by 1 - c a step, c = noise^2 / (2 T variance)."""
    n, t, noise = 4_000, 0.1, 0.1
    blur = VPSchedule().sigma(t) / VPSchedule().alpha_bar(t) ** 0.5 / 2
    c = noise**2 / (2 * (temperature or 1) * (0.2**2 + blur**2))
    variance = noise**2 / (1 - (1 - c) ** 2)
    defense = Langevin(steps=200, noise_scale=noise, temperature=temperature, t=t)
    images = torch.full((n, 1, 1, 1), 0.9, dtype=torch.float64)
    out = defense.build(score=gaussian_score(0.2, 0.4))(images, Noise(0, torch.arange(n)))
    assert abs(out.mean() - 0.6) < 4 * (variance / n) ** 0.5 + 0.3 * (1 - c) ** 200
    assert abs(out.var() / variance - 1) < 5 * (2 / n) ** 0.5


def test_a_vp_network_is_the_same_as_its_score_at_that_time() -> None:
    g, _ = load("denoiser_from_vp")
    vp, noise = vp_toy(g), Noise(0, torch.arange(3))
    by_network = Langevin(steps=3, t=0.1).build(score=vp)(g["x01"], noise)
    by_score = Langevin(steps=3, temperature=1.0).build(score=FixedTimeScore(vp, 0.1))(g["x01"], noise)
    assert torch.equal(by_network, by_score)


def test_ranges_are_named() -> None:
    for fields in ({"steps": 0}, {"noise_scale": 0.0}, {"temperature": 0.0}, {"t": 2.0}):
        with pytest.raises(ValueError, match="Expected"):
            Langevin(**fields)
