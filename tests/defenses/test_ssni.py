"""SSNI: golden norms, levels and outputs; images of other levels do not matter; calibration."""

import pytest
import torch
from closed_forms import assert_exact_gradient, assert_moments, gaussian_score, posterior_round_trip
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import prior_toy

from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.noise import Noise
from defenses.ssni import SSNI

G, META = load("ssni")
M = META["meta"]
FIELDS = {"t": M["t_star"] / 1000, "score_levels": M["T_eps"], "bias": M["bias"]}
LINEAR = SSNI(norm_low=M["xi_min"], norm_high=M["xi_max"], **FIELDS)
SIGMOID = SSNI(rule="sigmoid", norm_low=M["mu"], norm_high=M["mu"] + M["tau"], **FIELDS)
RULES = pytest.mark.parametrize(("rule", "defense"), [("linear", LINEAR), ("sigmoid", SIGMOID)])


def noise(rows: slice = slice(None)) -> RecordedNoise:
    zeros = torch.zeros_like(G["x01"][rows])  # levels that no image reaches
    sampler = {(0, k): zeros for k in range(M["t_star"] + 1)} | {(0, k): z[rows] for k, z in enumerate(G["noise"])}
    return RecordedNoise(sampler | {(1, k): e[rows] for k, e in enumerate(G["noise_eps"])})


@RULES
def test_golden_norms_and_levels(rule: str, defense: SSNI) -> None:
    norm = defense.score_norm(prior_toy(G), G["x01"], noise())
    assert (norm - G["score_norm"]).abs().max() < 1e-9
    assert torch.equal(defense.level(norm), G[f"levels_{rule}"])


@RULES
def test_golden_output(rule: str, defense: SSNI) -> None:
    out = defense.build(score=prior_toy(G))(G["x01"], noise())
    assert (out - G[f"output_{rule}"]).abs().max() < META["arrays"][f"output_{rule}"]["tolerance"]


def test_images_of_other_levels_do_not_matter() -> None:
    alone = LINEAR.build(score=prior_toy(G))(G["x01"][2:3], noise(slice(2, 3)))
    assert torch.allclose(alone, G["output_linear"][2:3], atol=1e-9)


def test_exact_gradient_equals_finite_differences() -> None:
    defense = SSNI(t=0.006, score_levels=2, norm_low=0.0, norm_high=100.0)
    assert_exact_gradient(lambda x: defense.build(score=prior_toy(G))(x, noise()), G["x01"])


def test_an_image_of_a_fixed_level_is_purified_by_plain_ddpm() -> None:
    """On Gaussian data: the posterior after a round trip to the level, whatever the norm."""
    n, level = 4000, 60
    defense = SSNI(t=level / 1000, norm_low=-2e9, norm_high=-1e9, score_levels=1)
    images = torch.full((n, 1, 1, 1), 0.75, dtype=torch.float64)
    out = defense.build(score=gaussian_score(discrete=True))(images, Noise(0, torch.arange(n)))
    expected = posterior_round_trip(0.5, 0.0, VPSchedule().alpha_bar_at(level - 1))
    assert_moments(to_model_space(out), *expected, bias=0.03)


def test_calibration_finds_the_norms_of_the_images() -> None:
    found = SSNI(**FIELDS).calibrated(prior_toy(G), G["x01"], noise())
    assert found.norm_low == pytest.approx(float(G["score_norm"].min())) and found.norm_low < found.norm_high
    levels = found.level(G["score_norm"])
    assert levels.min() == 1 and levels.max() in (39, 40)  # the extremes of the validation images
    sigmoid = SSNI(rule="sigmoid", **FIELDS).calibrated(prior_toy(G), G["x01"], noise())
    assert sigmoid.level(G["score_norm"].mean()[None]).item() in (19, 20)  # half of them at the mean norm


def test_levels_stay_in_range() -> None:
    def level(norm: float) -> Tensor:
        return SSNI(norm_low=1.0, norm_high=2.0, bias=5).level(torch.tensor([norm]))

    assert (level(-9).item(), level(1).item(), level(99).item()) == (1, 5, 105)


def test_missing_norms_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"Take them from SSNI\(...\).calibrated"):
        SSNI().build(score=prior_toy(G))


def test_ranges_are_named() -> None:
    for fields, message in (
        ({"rule": "cubic"}, "rule among"),
        ({"steps": 5}, "steps None"),
        ({"t": 1.0, "bias": 1}, "bias <= 1000"),
        ({"norm_low": 2.0, "norm_high": 1.0}, "norm_low < norm_high"),
    ):
        with pytest.raises(ValueError, match=message):
            SSNI(**fields)
