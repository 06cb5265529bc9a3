"""The judge: fresh draws, the null control, and refusals."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from linear_problem import defended, problem

from bench.attacks.base import Attack, Oracle, Trace
from bench.attacks.clean import Clean
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.square_eot import SquareEOT
from bench.evaluate import evaluate, price_looks
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise

THREAT = ThreatModel(epsilon=0.03)


def test_judging_draws_are_never_selection_draws() -> None:
    """Every query of attack and judge is recorded: no (seed, draw) of a role occurs in another."""
    classifier, images, labels, ids = problem(6)
    asked: list[tuple[int, int]] = []

    def purify(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        asked.append({(noise.seed, int(d)) for d in noise.draws})
        return x + 0.05 * noise.normal(x, step=0)

    evaluate(Defended(purify, classifier), PGDEOT(steps=3, eot=2), images, labels, ids, THREAT, draws=5, seed=0)
    attack, judge = set().union(*asked[:3]), asked[3:]
    assert len(judge) == 5  # robust, clean, robust at 8 bits, null, looks
    assert judge.pop(2) == judge[0]  # on the same draws, so that the rounding alone makes a difference
    for i, one in enumerate(judge):
        assert not one & attack
        assert all(not one & other for other in judge[i + 1 :])


def test_linear_gaussian_defense_has_its_analytic_accuracies() -> None:
    classifier, images, labels, ids = problem(400)
    sigma = 0.08
    model = defended(classifier, sigma)
    records = evaluate(model, PGDEOT(steps=8, step_size=0.01, eot=4), images, labels, ids, THREAT, draws=30, seed=0)
    margins = classifier.value(images).abs() / (sigma * classifier.w.norm())
    shrunk = margins - THREAT.epsilon * classifier.w.abs().sum() / (sigma * classifier.w.norm())
    for kind, expected in (("clean", margins), ("null", margins), ("robust", shrunk)):
        found = sum(getattr(r, f"{kind}_correct") for r in records) / (30 * 400)
        assert abs(found - torch.special.ndtr(expected.double()).mean()) < 0.01, kind


@pytest.mark.parametrize(
    "attack",
    [
        SquareEOT(steps=40, eot=1),
        SquareEOT(steps=40, eot=3),
        PGDEOT(steps=40, eot=1, resample=False),
        PGDEOT(steps=40, eot=1),
    ],
    ids=repr,
)
def test_without_a_budget_looks_and_their_price_are_equal(attack: Attack) -> None:
    """At epsilon 0 every look is at the clean image: as many fresh draws of it must be wrong as often."""
    classifier, images, labels, ids = problem(400)
    model = defended(classifier, float(0.3 * classifier.value(images).abs().mean() / classifier.w.norm()))
    records = evaluate(model, attack, images, labels, ids, ThreatModel(epsilon=0.0), draws=2, seed=0)
    shares = [sum(getattr(r, name) for r in records) / 400 for name in ("first_success", "null_first_success")]
    assert abs(shares[0] - shares[1]) < 0.05 and 0.3 < shares[0] < 0.97


def test_null_prices_resubmission() -> None:
    """A defense wrong in 3 % of draws on any image: first success "breaks" it without an attack; the null says so."""
    labels, ids = torch.zeros(500, dtype=torch.int64), torch.arange(500)
    images = torch.full((500, 1, 2, 2), 0.5)

    class Unlucky(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = x[:, 0, 0, 0]
            return torch.stack((0.5 + 0 * u, (u < 0.03).to(u.dtype), 0 * u), 1) + 0 * x.sum()

    def purify(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        return noise.uniform(x, step=0) + 0 * x

    trace = Trace()
    records = evaluate(
        Defended(purify, Unlucky()), PGDEOT(steps=20, eot=1), images, labels, ids, THREAT, draws=10, seed=1, trace=trace
    )
    lucky = 0.97**20
    error = 4 * (lucky * (1 - lucky) / 500) ** 0.5
    assert abs(sum(r.first_success for r in records) / 500 - lucky) < error
    assert abs(sum(r.null_first_success for r in records) / 500 - lucky) < error
    assert abs(sum(r.robust_correct for r in records) / 5000 - 0.97) < 4 * (0.97 * 0.03 / 5000) ** 0.5


def test_clean_attack_changes_nothing() -> None:
    classifier, images, labels, ids = problem(10)
    for record in evaluate(
        defended(classifier), Clean(), images, labels, ids, THREAT, draws=1, seed=0, stochastic=False
    ):
        assert record.distance == 0 and record.clean_votes == record.robust_votes == record.null_votes
        assert record.first_success is None


def test_bad_images_and_numbers_are_counted() -> None:
    classifier, images, labels, ids = problem(4)
    with pytest.raises(ValueError, match="found 2 outside or not finite, the first with index 1"):
        bad = images.clone()
        bad[1], bad[3] = 1.5, float("nan")
        evaluate(defended(classifier), Clean(), bad, labels, ids, THREAT, draws=1, seed=0)

    def broken(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        return torch.where((noise.image_ids == 2).view(-1, 1, 1, 1), torch.nan, x)

    with pytest.raises(ValueError, match="NaN or infinity for 1 images, the first with index 2"):
        evaluate(Defended(broken, classifier), Clean(), images, labels, ids, THREAT, draws=1, seed=0)


def test_an_attack_that_leaves_the_box_is_refused() -> None:
    _, images, _, _ = problem(3)
    outside = images.clone()
    outside[1] += 0.2
    with pytest.raises(ValueError, match="found 1 outside, the first at batch position 1"):
        THREAT.check(outside.clamp(0, 1), images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scribbles(Attack):
    """Writes into everything that it is given."""

    name: ClassVar[str] = "scribbles"
    source: ClassVar[str] = "none"

    def perturb(self, model, images, labels, image_ids, threat, seed, *, trace=None):  # noqa: ANN001, ANN201
        images.copy_(torch.rand_like(images))
        labels.fill_(0)
        image_ids.zero_()
        return images


def test_an_attack_cannot_change_what_the_judge_holds() -> None:
    classifier, images, labels, ids = problem(12)
    before = images.clone()
    model = defended(classifier)
    records = evaluate(model, Scribbles(), images, labels, ids, THREAT, draws=1, seed=0, stochastic=False)
    honest = evaluate(model, Clean(), images, labels, ids, THREAT, draws=1, seed=0, stochastic=False)
    assert torch.equal(images, before) and [r.index for r in records] == ids.tolist()
    assert [(r.label, r.clean_votes) for r in records] == [(r.label, r.clean_votes) for r in honest]
    assert max(r.distance for r in records) > 0.02


def test_an_attack_cannot_change_its_result_afterwards() -> None:
    classifier, images, labels, ids = problem(4)
    kept: list[torch.Tensor] = []

    class Keeps(type(Clean())):
        def perturb(self, model, images, *arguments, **options):  # noqa: ANN001, ANN002, ANN003, ANN202
            kept.append(images.clone())
            return kept[0]

    class Later(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if kept:
                kept[0].fill_(0.5)
            return classifier(x)

    records = evaluate(defended(Later()), Keeps(), images, labels, ids, THREAT, draws=1, seed=0, stochastic=False)
    assert all(r.distance == 0 and r.robust_votes == r.clean_votes for r in records)


def test_a_defense_that_draws_though_it_says_that_it_does_not_is_refused() -> None:
    classifier, images, labels, ids = problem(12)
    options = {"draws": 1, "seed": 0, "stochastic": False}
    with pytest.raises(ValueError, match="stochastic = False, found two .* Set stochastic = True"):
        evaluate(defended(classifier, 0.2), Clean(), images, labels, ids, THREAT, **options)
    evaluate(defended(classifier), Clean(), images, labels, ids, THREAT, **options)


@pytest.mark.parametrize("coupled", [False, True])
def test_looks_are_priced_on_as_many_draws_and_no_more(coupled: bool) -> None:
    """As if all draws were asked of every image; an image is left alone once one of them is wrong."""
    classifier, images, labels, ids = problem(40)
    asked: list[int] = []

    def purify(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        asked.append(len(x))
        return x + 0.1 * noise.normal(x, step=0)

    model = Defended(purify, classifier, batch_coupled=coupled)
    looks = {int(image): 1 + 7 * place % 60 for place, image in enumerate(ids[1:])}
    oracle = Oracle(model, labels, ids, 0, role="judge:looks")
    found = price_looks(oracle, images, looks)
    cost = sum(asked)
    every = Oracle(model, labels, ids, 0, eot=60, role="judge:looks").evaluate(images, 0).correct
    expected = {int(image): bool(every[: looks.get(int(image), 0), place].all()) for place, image in enumerate(ids)}
    assert found == expected and 0 < sum(found.values()) < 40
    assert coupled or cost < 0.7 * 40 * max(looks.values())
