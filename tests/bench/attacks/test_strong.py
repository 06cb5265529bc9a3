"""Strong: the exact radius, who goes on to a longer run, and the members for gradients that lead nowhere."""

from typing import Any

import pytest
import torch
from linear_problem import TwoClasses, defended, problem
from torch import Tensor

from bench.attacks._convergence import BY_LENGTH, write_convergence
from bench.attacks._doubling import Batch
from bench.attacks.base import Oracle, Trace
from bench.attacks.gold import Gold
from bench.attacks.strong import Strong
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise

THREAT = ThreatModel(epsilon=0.03)
SHORT = Strong(first=8, longest=32)


def still(purify: Any, classifier: TwoClasses, **changes: Any) -> Defended:
    """A defense that declares itself deterministic."""
    return Defended(purify, classifier, stochastic=False, **changes)


def labels_of(trace: Trace) -> dict[str, int]:
    """Member -> images that it last saw."""
    return {point["attack"]: point["images"] for point in trace.curve()}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_exact_radius_and_asks_a_deterministic_defense_once(norm: str) -> None:
    classifier, images, labels, ids = problem(100)
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    asked: list[int] = []

    def purify(x: Tensor, noise: Noise) -> Tensor:
        asked.append(len(x))
        return 1 - x

    mirror = TwoClasses(-classifier.w, -classifier.b)  # the bare classifier misleads
    model, trace = still(purify, mirror), Trace()
    adversarial = SHORT.perturb(model, images, labels, ids, threat, 0, trace=trace)
    threat.check(adversarial, images)
    outside = classifier.radius(images, norm) > threat.epsilon
    assert torch.equal(model(adversarial, None).argmax(1) == labels, outside)
    assert max(asked) == 100 and max(trace.looks.values()) <= SHORT.looks()
    assert {"ce 8", "margin 16"} <= set(trace.broken_by.values()) | {"ce 8", "margin 16"}
    seen = labels_of(trace)
    assert seen["ce 8"] == 100 and seen["ce 16"] == int(outside.sum())  # the others are settled
    assert "ce 32" not in seen and "margin 32" not in seen  # nothing closer: the whole ball is used


def test_a_gaussian_purifier_gets_its_exact_worst_case() -> None:
    classifier, images, labels, ids = problem(120)
    model = defended(classifier, 0.1)
    adversarial = SHORT.perturb(model, images, labels, ids, THREAT, 0)
    left = classifier.value(images).abs() - 0.03 * classifier.w.abs().sum()
    signed = classifier.value(adversarial) * (2 * labels - 1)
    exact, reached = (torch.distributions.Normal(0, 1).cdf(v / (0.1 * classifier.w.norm())) for v in (left, signed))
    assert 0 <= float((reached - exact).mean()) < 0.01


def test_the_curve_holds_all_images_at_every_length() -> None:
    classifier, images, labels, ids = problem(50)
    trace = Trace()
    SHORT.perturb(defended(classifier, 0.1), images, labels, ids, THREAT, 0, trace=trace)
    curve = [point for point in trace.curve() if point["attack"] == BY_LENGTH]
    assert [point["step"] for point in curve] == [0, 8, 16, 32] and {point["images"] for point in curve} == {50}
    right = [point["accuracy"] for point in curve]
    assert right == sorted(right, reverse=True)


def test_what_the_last_doubling_won_is_told_over_all_batches() -> None:
    def points(images: int, *right: float) -> list[dict[str, Any]]:
        return [
            {"attack": BY_LENGTH, "step": step, "accuracy": share, "images": images, "loss": 0.0}
            for step, share in zip((0, 8, 16, 32), right, strict=True)
        ]

    (note,) = write_convergence([*points(60, 0.9, 0.6, 0.5, 0.5), *points(20, 0.9, 0.6, 0.52, 0.5)])
    assert note.startswith("Converged: ") and "at most 32 steps" in note and "won 0.5 points" in note
    (note,) = write_convergence([*points(60, 0.9, 0.6, 0.5, 0.48), *points(20, 0.9, 0.6, 0.5, 0.5)])
    assert note.startswith("Not converged: ") and "won 1.5 points" in note
    assert write_convergence([{"attack": "pgd_eot", "step": 1, "accuracy": 0.5, "images": 3, "loss": 0.0}]) == []


def test_each_length_has_draws_of_its_own_and_all_are_counted_as_looks() -> None:
    classifier, images, labels, ids = problem(12)
    seen: dict[int, set[int]] = {}

    def purify(x: Tensor, noise: Noise) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            seen.setdefault(noise.seed, set()).update(noise.draws.tolist())
        return x + 0.5 * noise.normal(x, step=0)

    trace, threat = Trace(), ThreatModel(epsilon=1e-3)
    Strong(first=4, longest=8).perturb(Defended(purify, classifier), images, labels, ids, threat, 0, trace=trace)
    assert sorted(len(draws) for draws in seen.values()) == [4, 8]
    assert max(trace.looks.values()) >= 20 + 4 + 8 and max(trace.looks.values()) <= Strong(first=4, longest=8).looks()


def test_an_image_goes_on_where_the_doubling_gained() -> None:
    classifier, images, labels, ids = problem(5)
    given = (defended(classifier, 0.1), images, labels, ids, THREAT, 0, None)
    batch = Batch(*given, check_draws=20, settled=1.0)
    batch.worst.wrong = torch.tensor([0.3, 0.3, 0.0, 0.0, 0.9])
    batch.worst.margin = torch.tensor([-1.0, 2.0, -0.8, -0.95, 3.0])
    gained = batch.gained(torch.tensor([0.25, 0.3, 0.0, 0.0, 0.9]), torch.tensor([-1.0, 1.0, -1.0, -1.0, 2.0]))
    assert gained.tolist() == [True, False, True, False, False]
    batch.model.batch_coupled = True
    assert batch.gained(torch.tensor([0.2, 0.3, 0.0, 0.0, 0.9]), batch.worst.margin).all()
    assert not batch.gained(torch.tensor([0.26, 0.3, 0.0, 0.0, 0.9]), batch.worst.margin).any()


def test_long_runs_for_images_that_still_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images, labels, ids = problem(40)
    monkeypatch.setattr(Batch, "gained", lambda self, wrong, margin: self.image_ids % 2 == 0)
    trace, threat = Trace(), ThreatModel(epsilon=1e-3)
    SHORT.perturb(defended(classifier, 0.5), images, labels, ids, threat, 0, trace=trace)
    seen = labels_of(trace)
    assert seen["ce 16"] == 40 and seen["ce 32"] == 20 == seen["margin 32"]


def test_plateaus_are_searched_without_gradients() -> None:
    """Rounded, so without a gradient; mirrored, so that straight-through leads the wrong way."""
    classifier, images, labels, ids = problem(40)
    mirror = TwoClasses(-classifier.w, -classifier.b)
    model = still(lambda x, noise: (25 * (1 - x)).round() / 25, mirror)
    trace, threat = Trace(), ThreatModel(epsilon=0.04)
    attack = Strong(first=16, longest=32)
    adversarial = attack.perturb(model, images, labels, ids, threat, 0, trace=trace)
    assert "nes" in trace.broken_by.values() and "straight_through" not in trace.broken_by.values()
    left = (model(adversarial, None).argmax(1) == labels).float().mean()
    best = images - threat.epsilon * (2 * labels - 1).view(-1, 1, 1, 1) * classifier.w.sign()
    assert left <= (model(best, None).argmax(1) == labels).float().mean() + 0.2 < 0.5
    easy = Trace()
    attack.perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.3), 0, trace=easy)
    assert "nes" not in labels_of(easy)  # nobody is left


def test_a_defense_that_restores_what_no_file_holds_is_attacked_by_files() -> None:
    """Off the grid of 8 bits everything is restored, so every member looks harmless until it is rounded."""
    classifier, images, labels, ids = problem(30)
    images = (images * 255).round() / 255

    def purify(x: Tensor, noise: Noise) -> Tensor:
        off = ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(1).view(-1, 1, 1, 1)
        return torch.where(off, x + (images[noise.image_ids] - x).detach(), x)

    trace = Trace()
    model = still(purify, classifier)
    adversarial = SHORT.perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    THREAT.check(adversarial, images)
    robust = model(adversarial, Noise(1, ids)).argmax(1) == labels
    assert robust.float().mean() <= (classifier.radius(images, "Linf") > 7 / 255).float().mean() + 0.1
    assert any(member.endswith("in 8 bits") for member in trace.broken_by.values())


def guided(classifier: TwoClasses, *, coupled: bool) -> Defended:
    """A defense whose exact gradient points the wrong way, and right with the guidance held constant."""

    def build(kind: Any = "exact") -> Defended:
        sign = 1 if kind == "guidance_detached" else -1

        def purify(x: Tensor, noise: Noise) -> Tensor:
            moved = 1 - x
            return moved.detach() - sign * (x - x.detach()) + 0.02 * noise.normal(x, step=0)

        kinds = ("exact", "guidance_detached")
        mirror = TwoClasses(-classifier.w, -classifier.b)
        return Defended(purify, mirror, gradient=kind, rebuild=build, kinds=kinds, batch_coupled=coupled)

    return build()


@pytest.mark.parametrize("coupled", [True, False])
def test_guidance_is_held_constant_as_well(coupled: bool) -> None:
    classifier, images, labels, ids = problem(40)
    model, trace = guided(classifier, coupled=coupled), Trace()
    adversarial = SHORT.perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    right = Oracle(model, labels, ids, 1, eot=20, role="test").evaluate(adversarial, 0).correct.float().mean()
    assert right <= (classifier.radius(images, "Linf") > 0.03).float().mean() + 0.1
    seen = labels_of(trace)
    assert "ce@guidance_detached 8" in seen and ("ce@guidance_detached 16" in seen) == coupled
    if coupled:
        assert set(seen.values()) == {40}


def test_the_surrogate_is_a_member_and_none_of_its_answers_a_look() -> None:
    classifier, images, labels, ids = problem(30)

    mirror = TwoClasses(-classifier.w, -classifier.b)

    def build(kind: Any = "exact") -> Defended:
        kinds = ("exact", "surrogate")
        return still(
            lambda x, noise: (1 - x).detach() + 0 * x, mirror, gradient=kind, surrogate=lambda x, noise: 1 - x,
            rebuild=build, kinds=kinds,
        )  # fmt: skip

    trace = Trace()
    Strong(first=20, longest=40).perturb(build(), images, labels, ids, THREAT, 0, trace=trace)
    found = [image for image, member in trace.broken_by.items() if member == "surrogate"]
    assert len(found) == int((classifier.radius(images, "Linf") <= 0.03).sum())
    assert {trace.looks[image] for image in found} == {1}  # the check draw


def test_a_usual_image_costs_far_less_than_the_most() -> None:
    """The forecast's basis, held to what digits behind DiffPure's ODE and SDE cost (docs/attacks.md)."""
    (plain, graph), (most_plain, most_graph) = Strong().usual_queries(), Strong().queries()
    assert plain < most_plain / 3 and graph < most_graph / 5
    for measured in (14_276, 16_363):  # ten network calls an answer, 21 with a gradient
        assert 10 * plain + 21 * graph == pytest.approx(measured, rel=0.2)
    assert Gold().usual_queries() == Gold().queries()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"first": 0}, "first > 0"), ({"longest": 100}, "longest = first times"), ({"settled": 0.3}, "settled in")],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Strong(**fields)
