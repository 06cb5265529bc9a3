"""DiffPure: golden numbers and the Gaussian closed form."""

import pytest
import torch
from golden import RecordedNoise, load, sampler_noise, toy_score
from torch import Tensor

from defenses.base import Defended
from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise


class Linear(torch.nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_golden_output_and_exact_gradient() -> None:
    g, meta = load("diffpure_sde")
    purify = DiffPureSDE(t=0.1).build(score=toy_score(g))
    x = g["x01"].clone().requires_grad_()
    out = purify(x, RecordedNoise(sampler_noise(g["e"], g["z"])))
    assert (to_model_space(out) - g["output"]).abs().max() < meta["arrays"]["output"]["tolerance"]
    loss = torch.nn.functional.cross_entropy(out.flatten(1) @ g["A"].T, g["labels"], reduction="sum")
    assert abs(loss.item() - g["loss"].item()) < 1e-10
    loss.backward()
    assert (x.grad - g["grad_exact"]).abs().max() < meta["arrays"]["grad_exact"]["tolerance"]


def test_straight_through_is_the_authors_gradient_up_to_their_factor() -> None:
    g, _ = load("authors_wrapper_gradient")
    model = Defended(
        lambda x, noise: (g["purified"] + 1) / 2,
        Linear(g["A"]),
        gradient="straight_through",
    )
    x = g["x01"].clone().requires_grad_()
    logits = model(x, Noise(0, torch.arange(4)))
    assert torch.allclose(logits, g["logits"])
    torch.nn.functional.cross_entropy(logits, g["labels"], reduction="sum").backward()
    assert torch.allclose(0.5 * x.grad, g["grad"], atol=1e-12)


def test_integer_levels_of_a_discrete_network() -> None:
    g, _ = load("diffpure_sde_guided_index")
    toy = toy_score(g, tau=lambda label: label / 1000)
    seen: list[int] = []

    def network(x: Tensor, label: Tensor) -> Tensor:
        seen.append(int(label[0]))
        return torch.cat((toy.network(x.double(), label.double()), x.double()), 1).to(x.dtype)

    score = NetworkScore(network, (3, 8, 8), labels="index")
    recorded = RecordedNoise(sampler_noise(g["e"], g["z"]))
    out = DiffPureSDE(t=0.1).build(score=score)(g["x01"].float(), recorded)
    assert seen == g["index_sequence"].tolist()
    assert (to_model_space(out) - g["output"]).abs().max() < 1e-4


MEAN, STD = 0.3, 0.5


def gaussian_score() -> NetworkScore:
    """The exact noise prediction for data N(MEAN, STD^2) in [-1, 1] space."""
    schedule = VPSchedule()

    def network(x: Tensor, label: Tensor) -> Tensor:
        t = (label / 999).view(-1, 1, 1, 1)
        a, s = schedule.alpha_bar(t), schedule.sigma(t)
        return s * (x - a.sqrt() * MEAN) / (a * STD**2 + s**2)

    return NetworkScore(network, (1, 1, 1))


N = 8_000


def reverse_of_gaussian(t: float, steps: int, n: int = N) -> tuple[Tensor, Tensor]:
    """Mean and variance of what DiffPure makes of the image 0.9 (0.8 in [-1, 1] space)."""
    images = torch.full((n, 1, 1, 1), 0.9, dtype=torch.float64)
    out = DiffPureSDE(t=t, steps=steps).build(score=gaussian_score())(images, Noise(0, torch.arange(n)))
    return to_model_space(out).mean(), to_model_space(out).var()


@pytest.mark.parametrize("t", [0.2, 0.5])
def test_gaussian_data_give_the_posterior(t: float) -> None:
    """The exact reverse process maps x_t to the posterior of x_0 given x_t, itself averaged over the forward noise."""
    s = VPSchedule()
    a = s.alpha_bar_at(s.level(t) - 1)
    gain = STD**2 * a**0.5 / (a * STD**2 + 1 - a)  # posterior mean is MEAN + gain (x_t - sqrt(a) MEAN)
    mean = MEAN + gain * a**0.5 * (0.8 - MEAN)
    variance = STD**2 * (1 - a) / (a * STD**2 + 1 - a) + gain**2 * (1 - a)
    found_mean, found_variance = reverse_of_gaussian(t, steps=200)
    assert abs(found_mean - mean) < 4 * (variance / N) ** 0.5 + 2e-3
    assert abs(found_variance / variance - 1) < 4 * (2 / N) ** 0.5 + 1e-2
