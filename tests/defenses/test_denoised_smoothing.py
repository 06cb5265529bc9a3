"""Denoised smoothing: the denoiser's golden number, the Gaussian closed form, its gradient; DensePure's votes."""

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load
from torch import Tensor

from defenses.denoised_smoothing import DenoisedSmoothing
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise


def gaussian_score(mean: float, std: float, extra: float = 0.0) -> NetworkScore:
    """The exact noise prediction for N(mean, std^2) data in [-1, 1] space, plus `extra` times something nonlinear."""
    schedule = VPSchedule()

    def network(x: Tensor, label: Tensor) -> Tensor:
        t = (label / 999).view(-1, 1, 1, 1)
        a, s = schedule.alpha_bar(t), schedule.sigma(t)
        return s * (x - a.sqrt() * mean) / (a * std**2 + s**2) + extra * torch.tanh(3 * x)

    return NetworkScore(network, (1, 2, 2))


def test_golden_denoiser() -> None:
    """D(2 x01 - 1, 0.5) is one-shot denoising of an image that noise of scale 0.25 left as it is."""
    g, meta = load("denoiser_from_vp")
    schedule = VPSchedule()

    def network(x: Tensor, label: Tensor) -> Tensor:
        t = (label / 999).view(-1, 1, 1, 1)
        a = schedule.alpha_bar(t)
        convolved = torch.tanh(F.conv2d(x, g["net_W"], g["net_b"], padding=1))
        return (1 - a).sqrt() / (0.25 * a + 1 - a) * x + 0.1 * (g["net_c"][0] + g["net_c"][1] * t) * convolved

    noiseless = RecordedNoise({(0, 0): torch.zeros_like(g["x01"])})
    score = NetworkScore(network, (3, 8, 8))
    out = DenoisedSmoothing(sigma=0.25, clip=False).build(score=score)(g["x01"], noiseless)
    assert (to_model_space(out) - g["denoised_0.5"]).abs().max() < 1e-9
    clipped = DenoisedSmoothing(sigma=0.25).build(score=score)(g["x01"], noiseless)
    assert torch.equal(clipped, out.clamp(0, 1))


def test_gaussian_data_give_the_posterior_mean() -> None:
    """E[x | x + sigma n] for x ~ N(m, s^2): its mean and variance over the noise, for one image."""
    m, s, sigma, image, n = 0.55, 0.2, 0.25, 0.8, 20_000
    images = torch.full((n, 1, 1, 1), image, dtype=torch.float64)
    score = gaussian_score(2 * m - 1, 2 * s)
    out = DenoisedSmoothing(sigma=sigma, clip=False).build(score=score)(images, Noise(0, torch.arange(n)))
    gain = s**2 / (s**2 + sigma**2)
    assert abs(out.mean() - (m + gain * (image - m))) < 4 * gain * sigma / n**0.5
    assert abs(out.var() / (gain * sigma) ** 2 - 1) < 4 * (2 / n) ** 0.5


def test_exact_gradient_equals_finite_differences() -> None:
    images = torch.rand(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    purify = DenoisedSmoothing(sigma=0.1).build(score=gaussian_score(0.0, 0.5, extra=0.1))
    assert torch.autograd.gradcheck(lambda x: purify(x, Noise(0, torch.arange(2))), images)


def test_certifies_a_classifier_behind_the_denoiser() -> None:
    """On Gaussian data the denoiser is affine, so a threshold stays a threshold, and its radius is known."""
    m, s, sigma = 0.5, 0.3, 0.25

    class Threshold(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            margin = x.flatten(1).sum(1) - 2  # denoised: gain (sum(x) - 2), so the boundary does not move
            return torch.stack((-margin, margin), 1)

    images = torch.full((1, 1, 2, 2), 0.65)
    defense = DenoisedSmoothing(sigma=sigma, n=10_000, clip=False)
    found = defense.certify(Threshold(), gaussian_score(2 * m - 1, 2 * s), images, Noise(0, torch.arange(1)))
    exact = 4 * 0.15 / 2  # (sum(x) - 2) / |w|
    assert found.label.item() == 1 and exact - 0.03 < found.radius.item() < exact


def densepure(**fields: object) -> DenoisedSmoothing:
    return DenoisedSmoothing(**{"steps": 4, "clip": False, **fields})


def test_densepure_samples_the_posterior_of_gaussian_data() -> None:
    """Ancestral sampling from x + noise: x's posterior has the gain of one-shot denoising and a variance of its own."""
    m, s, sigma, image, n = 0.55, 0.2, 0.25, 0.8, 4_000
    images = torch.full((n, 1, 1, 1), image, dtype=torch.float64)
    score = gaussian_score(2 * m - 1, 2 * s)
    out = densepure(sigma=sigma, steps=60).build(score=score)(images, Noise(0, torch.arange(n)))
    gain = s**2 / (s**2 + sigma**2)
    variance = (gain * sigma) ** 2 + gain * sigma**2
    assert abs(out.mean() - (m + gain * (image - m))) < 4 * (variance / n) ** 0.5 + 0.003
    assert abs(out.var() / variance - 1) < 4 * (2 / n) ** 0.5 + 0.03


def test_votes_share_the_smoothing_noise_and_nothing_else() -> None:
    noise = Noise(0, torch.zeros(4, dtype=torch.int64), torch.arange(4))  # two noisy images, two votes each
    seen = []
    score = gaussian_score(0.0, 0.5)
    network = score.network
    score.network = lambda x, label: (seen.append(x), network(x, label))[1]
    out = densepure(votes=2).build(score=score)(torch.zeros(4, 1, 2, 2, dtype=torch.float64), noise)
    assert torch.equal(seen[0][0], seen[0][1]) and torch.equal(seen[0][2], seen[0][3])
    assert not torch.equal(seen[0][0], seen[0][2]) and len({tuple(row.flatten().tolist()) for row in out}) == 4


def test_each_run_answers_with_the_majority_of_its_votes() -> None:
    """Seven runs of three votes: the log of the shares of runs, not of votes, as the classifier counts them."""

    class Sign(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            margin = x.flatten(1).sum(1)
            return torch.stack((-margin, margin), 1)

    images = torch.full((5, 1, 2, 2), 0.01, dtype=torch.float64)
    defense, noise = densepure(runs=7, votes=3, sigma=0.5), Noise(0, torch.arange(5))
    model = defense.defend(Sign(), gaussian_score(-1.0, 0.5))
    with torch.no_grad():
        logits, rows = model(images, noise), noise.split(21)
        labels = Sign()(model.purify(images.repeat(21, 1, 1, 1), rows)).argmax(1).view(7, 3, 5)
    shares = labels.double().mean(1).round().mean(0)
    assert torch.allclose(logits.exp()[:, 1], shares.clamp_min(1e-6), atol=1e-9)
    assert not torch.allclose(labels.double().mean((0, 1)), shares)
    assert defense.network_evaluations == 7 * 3 * 4


def test_densepure_exact_gradient_equals_finite_differences() -> None:
    images = torch.rand(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    purify = densepure(sigma=0.1, votes=2).build(score=gaussian_score(0.0, 0.5, extra=0.1))
    assert torch.autograd.gradcheck(lambda x: purify(x, Noise(0, torch.arange(2))), images)


def test_votes_on_one_step_are_refused() -> None:
    with pytest.raises(ValueError, match="always gives the same answer"):
        DenoisedSmoothing(votes=3)
