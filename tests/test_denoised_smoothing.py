"""Denoised smoothing: the denoiser's golden number, the Gaussian closed form, its gradient."""

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
