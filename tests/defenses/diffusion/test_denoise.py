"""A VP network as a denoiser and as a data score: golden numbers and closed forms."""

import pytest
import torch
from golden import load
from toy_denoisers import gaussian_score, vp_toy

from defenses.diffusion.denoise import FixedTimeScore, data_score, denoise, denoising_error, time_of_sigma
from defenses.diffusion.schedule import VPSchedule, to_model_space

G, META = load("denoiser_from_vp")
X = torch.linspace(0, 1, 5, dtype=torch.float64).view(5, 1, 1, 1)


def test_golden_times_and_the_round_trip() -> None:
    t = time_of_sigma(VPSchedule(), G["sigmas"])
    assert torch.allclose(t, G["t_of_sigma"], rtol=1e-12)
    wide = torch.tensor([1e-4, 2e-3, 80.0])
    assert torch.allclose(VPSchedule().alpha_bar(time_of_sigma(VPSchedule(), wide)), 1 / (1 + wide.double() ** 2))


def test_golden_denoiser() -> None:
    out = denoise(vp_toy(G), to_model_space(G["x01"]), 0.5)
    assert torch.allclose(out, G["denoised_0.5"], atol=1e-12)


def test_levels_of_their_own_for_each_image() -> None:
    y, sigma = to_model_space(G["x01"]), torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    together = denoise(vp_toy(G), y, sigma)
    for i, s in enumerate(sigma.tolist()):
        assert torch.allclose(together[i : i + 1], denoise(vp_toy(G), y[i : i + 1], s), atol=1e-12)
    error = denoising_error(vp_toy(G), y, sigma, torch.zeros_like(y))
    assert torch.allclose(error, ((together - y) ** 2).mean((1, 2, 3)))


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_gaussian_data_give_the_posterior_mean(sigma: float) -> None:
    y = 3 * X - 1
    expected = (0.3 * sigma**2 + 0.5**2 * y) / (0.5**2 + sigma**2)
    assert torch.allclose(denoise(gaussian_score(0.3, 0.5), y, sigma), expected, atol=1e-10)


@pytest.mark.parametrize("t", [0.05, 0.3])
def test_a_vp_network_at_a_fixed_time_is_the_score_of_the_blurred_data(t: float) -> None:
    """Data N(m, d^2) in [0, 1] blurred by s have the score (m - x) / (d^2 + s^2)."""
    vp, mean, spread = gaussian_score(0.2, 0.4), 0.6, 0.2
    blur = VPSchedule().sigma(t) / VPSchedule().alpha_bar(t) ** 0.5 / 2
    expected = (mean - X) / (spread**2 + blur**2)
    assert torch.allclose(FixedTimeScore(vp, t).score(X), expected, rtol=1e-9)
    assert torch.allclose(FixedTimeScore(vp, t, unit=True).score(X), blur * expected, rtol=1e-9)


def test_a_data_score_is_taken_as_it_is() -> None:
    fixed = data_score(gaussian_score(0.0, 1.0), 0.1)
    assert isinstance(fixed, FixedTimeScore) and data_score(fixed, 0.2) is fixed
