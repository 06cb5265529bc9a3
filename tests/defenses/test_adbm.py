"""ADBM's sampler: golden numbers of both forms, its schedule, the noise that its last ancestral step leaves."""

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load, sampler_noise
from torch import Tensor
from toy_denoisers import column

from defenses.adbm import ADBM, ADBM_SCHEDULE
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

G, META = load("adbm")
NOISE = RecordedNoise(sampler_noise(G["noise"], G["z"]))


def toy() -> NetworkScore:
    """eps(x, i) = sqrt(1 - A_i) / (0.25 A_i + 1 - A_i) x + 0.25 (c0 + c1 i / 1000) tanh(conv(x)), ADBM's A."""
    table = torch.tensor([ADBM_SCHEDULE.alpha_bar_at(i) for i in range(1000)], dtype=torch.float64)

    def network(x: Tensor, label: Tensor) -> Tensor:
        a = column(table[label.long()])
        bent = torch.tanh(F.conv2d(x, G["net_W"], G["net_b"], padding=1))
        scale = G["net_c"][0] + G["net_c"][1] * column(label) / 1000
        return (1 - a).sqrt() / (0.25 * a + 1 - a) * x + 0.25 * scale * bent

    return NetworkScore(network, (3, 8, 8))


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"adbm {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def test_golden_schedule() -> None:
    levels = [META["meta"]["forward_index"], *META["meta"]["indices"]]
    check(torch.tensor([ADBM_SCHEDULE.alpha_bar_at(i) for i in levels], dtype=torch.float64), "alpha_bar")


def test_golden_ddim_and_its_gradient() -> None:
    x = G["x01"].clone().requires_grad_()
    out = ADBM().build(score=toy())(x, NOISE)
    check(out, "output_ddim")
    (out * G["readout"]).sum().backward()
    check(x.grad, "grad_exact_ddim")


def test_golden_ddpm() -> None:
    check(ADBM(sampler="ddpm").build(score=toy())(G["x01"], NOISE), "output_ddpm")


def test_the_last_ancestral_step_leaves_noise() -> None:
    """For a network that always finds grey, the rest is the noise of the step from level 19."""
    schedule = ADBM_SCHEDULE

    def grey(x: Tensor, label: Tensor) -> Tensor:
        return x / (1 - schedule.alpha_bar_at(int(label[0]))) ** 0.5

    images = torch.rand(200, 1, 8, 8, dtype=torch.float64)
    out = ADBM(sampler="ddpm").build(score=NetworkScore(grey, (1, 8, 8)))(images, Noise(0, torch.arange(200)))
    expected = (1 - schedule.alpha_bar_at(19)) ** 0.5
    assert abs(2 * (out - 0.5).std() / expected - 1) < 0.03 and abs(expected - 0.062) < 1e-3


def test_a_second_round_starts_from_the_first_with_noise_of_its_own() -> None:
    noise, images = Noise(3, torch.arange(3)), G["x01"]
    once, twice = (ADBM(rounds=rounds).build(score=toy())(images, noise) for rounds in (1, 2))
    assert (once - twice).abs().max() > 1e-2
    assert ADBM(rounds=2).network_evaluations == 10


def test_all_of_diffusion_time_ends_at_the_last_level() -> None:
    assert ADBM(t=1.0).build(score=toy())(G["x01"], Noise(0, torch.arange(3))).isfinite().all()


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="Expected sampler among ddim, ddpm"):
        ADBM(sampler="sde")
    with pytest.raises(ValueError, match="Expected rounds >= 1"):
        ADBM(rounds=0)
