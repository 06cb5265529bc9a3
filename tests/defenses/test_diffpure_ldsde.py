"""LD-SDE: golden numbers and the Ornstein-Uhlenbeck law of Gaussian data."""

import pytest
import torch
from closed_forms import MEAN, SCHEDULE, STD, assert_exact_gradient, assert_moments, gaussian_score
from golden import RecordedNoise, load, toy_score

from defenses.diffpure_ldsde import DiffPureLDSDE
from defenses.diffusion.schedule import to_model_space
from defenses.noise import Noise

G, META = load("ldsde")
RECORDED = RecordedNoise({(0, k + 1): z for k, z in enumerate(G["z"])})


def test_golden_output() -> None:
    defense = DiffPureLDSDE()
    out = defense.build(score=toy_score(G))(G["x01"], RECORDED)
    assert (to_model_space(out) - G["output"]).abs().max() < META["arrays"]["output"]["tolerance"]
    assert defense.network_evaluations == META["meta"]["network_calls"] - 1  # the authors' contract check is left out


def test_gaussian_data_give_an_ornstein_uhlenbeck_process() -> None:
    """Linear drift: pulled to the input and to the noised data's mean, each with its own rate."""
    n, defense = 4000, DiffPureLDSDE(t=0.2, steps=400, rate=0.5, tether=0.1, noise_scale=0.7)
    images = torch.full((n, 1, 1, 1), 0.9, dtype=torch.float64)
    out = defense.build(score=gaussian_score())(images, Noise(0, torch.arange(n)))
    a = SCHEDULE.alpha_bar(0.01)
    to_data, to_input = 1 / (a * STD**2 + 1 - a), 1 / defense.tether
    speed = 0.5 * defense.rate * (to_data + to_input)
    centre = (to_data * a**0.5 * MEAN + to_input * 0.8) / (to_data + to_input)
    left = torch.exp(torch.tensor(-speed * defense.t)).item()
    variance = defense.noise_scale**2 * defense.rate / (2 * speed) * (1 - left**2)
    assert_moments(to_model_space(out), centre + left * (0.8 - centre), variance)


def test_exact_gradient_reaches_the_input_as_start_and_as_anchor() -> None:
    purify = DiffPureLDSDE(steps=6, rate=2.0, tether=0.05).build(score=toy_score(G))
    assert_exact_gradient(lambda x: purify(x, RECORDED), G["x01"])


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="tether > 0"):
        DiffPureLDSDE(tether=0.0)
