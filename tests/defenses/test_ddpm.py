"""DDPM purification: golden numbers, respacing, the Gaussian closed form."""

import pytest
import torch
from closed_forms import SCHEDULE, assert_exact_gradient, assert_moments, gaussian_score, posterior_round_trip
from golden import RecordedNoise, load, sampler_noise, toy_score
from torch import Tensor

from defenses.ddim import DDIM
from defenses.ddpm import DDPM
from defenses.diffusion.schedule import to_model_space
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

G, META = load("ddpm")
RECORDED = RecordedNoise(sampler_noise(G["e"], G["z"]))


def score(*, learned: bool = False) -> NetworkScore:
    toy = toy_score(G, tau=lambda label: label / 1000)
    if not learned:
        return toy

    def network(x: Tensor, label: Tensor) -> Tensor:
        share = torch.tanh(torch.nn.functional.conv2d(x, G["net_W2"], G["net_b2"], padding=1))
        return torch.cat((toy.network(x, label), share), 1)

    return NetworkScore(network, (3, 8, 8))


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("fixedsmall", {}),
        ("fixedlarge", {"variance": "large"}),
        ("guided", {"variance": "learned", "clip_x0": True}),
    ],
)
def test_golden_output(key: str, fields: dict) -> None:
    purify = DDPM(t=0.05, **fields).build(score=score(learned=key == "guided"))
    out = to_model_space(purify(G["x01"], RECORDED))
    assert (out - G[f"output_{key}"]).abs().max() < META["arrays"][f"output_{key}"]["tolerance"]


@pytest.mark.parametrize("steps", [50, 10, 7])
def test_skipped_levels_are_ddim_with_eta_one(steps: int) -> None:
    ours = DDPM(t=0.05, steps=steps).build(score=score())(G["x01"], RECORDED)
    other = DDIM(t=0.05, steps=steps, eta=1.0).build(score=score())(G["x01"], RECORDED)
    assert torch.allclose(ours, other, rtol=0, atol=1e-12)


def test_skipped_levels_keep_the_signal() -> None:
    walk = sub_sequence(50, 7)
    kept = torch.tensor([1 - SCHEDULE.step_beta_at(i, before) for i, before in walk], dtype=torch.float64).prod()
    assert abs(kept - SCHEDULE.alpha_bar_at(49)) < 1e-14


@pytest.mark.parametrize("fields", [{"variance": "small"}, {"variance": "large"}, {"variance": "large", "steps": 100}])
def test_gaussian_data_give_the_posterior(fields: dict) -> None:
    n, defense = 4000, DDPM(t=0.2, **fields)
    images = torch.full((n, 1, 1, 1), 0.9, dtype=torch.float64)
    out = to_model_space(defense.build(score=gaussian_score(discrete=True))(images, Noise(0, torch.arange(n))))
    assert_moments(out, *posterior_round_trip(0.8, 0.0, SCHEDULE.alpha_bar_at(199)), bias=0.02)


@pytest.mark.parametrize("fields", [{"steps": 5}, {"t": 0.004, "variance": "learned", "clip_x0": True}])
def test_exact_gradient(fields: dict) -> None:
    defense = DDPM(**{"t": 0.05, **fields})
    purify = defense.build(score=score(learned=defense.variance == "learned"))
    assert_exact_gradient(lambda x: purify(x, RECORDED), 0.2 + 0.6 * G["x01"])


def test_surrogate_has_fewer_steps() -> None:
    assert DDPM(t=0.05).network_evaluations == 50
    cheap = DDPM(t=0.05, variance="learned", clip_x0=True, runs=3).surrogate()
    assert (cheap.network_evaluations, cheap.variance, cheap.clip_x0, cheap.runs) == (10, "small", True, 1)


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="Expected 1 <= steps <= 50"):
        DDPM(t=0.05, steps=51)
    with pytest.raises(ValueError, match="learned variance is that of single levels"):
        DDPM(t=0.05, steps=5, variance="learned")
    with pytest.raises(ValueError, match="Expected variance among"):
        DDPM(variance="medium")
    with pytest.raises(ValueError, match="network that predicts one"):
        DDPM(t=0.05, variance="learned").build(score=score())(G["x01"], RECORDED)
