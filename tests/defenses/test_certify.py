"""Certification: Clopper-Pearson's closed forms, and the linear classifier whose radius is known."""

import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from defenses.certify import ABSTAIN, Certificate, certified_radius, certify, count_votes, lower_bound, predict
from defenses.noise import Noise
from defenses.randomized_smoothing import RandomizedSmoothing

WEIGHT, BIAS = torch.tensor([0.6, -0.8, 0.0, 2.4]), -0.5


class Linear(nn.Module):
    """Two classes, split by the hyperplane w.x + b = 0."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1) @ WEIGHT.to(x) + BIAS
        return torch.stack((-margin, margin), 1)


def distance(images: Tensor) -> Tensor:
    """Signed distance to the hyperplane, in image units."""
    return (images.flatten(1) @ WEIGHT + BIAS) / WEIGHT.norm()


@pytest.mark.parametrize(("successes", "trials"), [(100, 100), (99, 100), (60, 100), (0, 10)])
def test_clopper_pearson(successes: int, trials: int) -> None:
    expected = beta.ppf(0.001, successes, trials - successes + 1) if successes else 0.0
    assert abs(lower_bound(successes, trials, 0.001) - expected) < 1e-12
    if successes == trials:
        assert abs(expected - 0.001 ** (1 / trials)) < 1e-12


def test_the_largest_radius_that_100_000_draws_can_certify() -> None:
    assert abs(certified_radius(100_000, 100_000, sigma=0.5) - 0.5 * norm.ppf(0.001**1e-5)) < 1e-9
    assert certified_radius(50_000, 100_000, sigma=0.5) == 0.0


def test_radius_of_a_linear_classifier_approaches_the_distance() -> None:
    images = torch.tensor([[0.5, 0.2, 0.1, 0.3], [0.1, 0.9, 0.5, 0.0], [0.2, 0.1, 0.5, 0.4]]).reshape(3, 1, 2, 2)
    exact, gaps = distance(images), []
    for n in (500, 20_000):
        defense = RandomizedSmoothing(sigma=0.25, n=n)
        found = defense.certify(Linear(), None, images, Noise(3, torch.arange(3)), batch_size=7000)
        assert torch.equal(found.label, (exact > 0).long())
        gaps.append(exact.abs().double() - found.radius)
    assert (gaps[1] > 0).all() and (gaps[0] > gaps[1]).all()
    assert (gaps[1] < 0.02).all()


def test_abstains_on_the_boundary_and_says_what_is_certified() -> None:
    on_the_plane = torch.tensor([[0.5, 0.0, 0.0, 0.2 / 2.4], [0.9, 0.0, 0.0, 0.9]]).reshape(2, 1, 2, 2)
    answer = RandomizedSmoothing(sigma=0.25, runs=1).defend(Linear())
    noise = Noise(0, torch.arange(2))
    found = certify(answer, on_the_plane, noise, sigma=0.25, n=2000)
    assert found.label.tolist() == [ABSTAIN, 1] and found.radius[0] == 0 and found.radius[1] > 0.3
    assert predict(answer, on_the_plane, noise).tolist() == [ABSTAIN, 1]
    labels = torch.tensor([1, 1])
    assert found.correct_within(labels, 0.3).tolist() == [False, True]
    assert found.correct_within(labels, 0.0).tolist() == [False, True]
    assert not found.correct_within(labels, 9.0).any()
    assert isinstance(found, Certificate)


def test_wrong_certificates_are_as_rare_as_alpha() -> None:
    """A label of probability p gets a bound above p with probability at most alpha, here 0.1."""
    p, trials = 0.8, 60
    bounds = torch.tensor([lower_bound(k, trials, 0.1) for k in range(trials + 1)])
    successes = torch.distributions.Binomial(trials, torch.tensor(p)).sample((20_000,)).long()
    wrong = (bounds[successes] > p).double().mean()
    assert 0.03 < wrong < 0.1


def test_neither_batch_size_nor_batch_mates_matter() -> None:
    images, noise = torch.rand(3, 1, 2, 2), Noise(1, torch.tensor([5, 7, 9]))
    answer = RandomizedSmoothing(runs=1).defend(Linear())
    whole = certify(answer, images, noise, sigma=0.25, n=300)
    alone = certify(answer, images[1:2], noise[1:2], sigma=0.25, n=300, batch_size=37)
    assert whole.radius[1] == alone.radius[0] and whole.label[1] == alone.label[0]


def test_selection_and_estimation_use_different_draws() -> None:
    seen: list[Tensor] = []

    def answer(images: Tensor, noise: Noise) -> Tensor:
        seen.append(noise.draws)
        return torch.zeros(len(images), 2)

    certify(answer, torch.zeros(1, 1, 2, 2), Noise(0, torch.arange(1), draws=2), sigma=1.0, n0=10, n=30, batch_size=8)
    draws = torch.cat(seen)
    assert len(draws) == 40 == len(draws.unique()) and draws.min() == 2 * 40
    assert count_votes(answer, torch.zeros(1, 1, 2, 2), Noise(0, torch.zeros(5).long())).tolist() == [5, 0]
