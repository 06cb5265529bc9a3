"""Cascade and gold: the worst case per image, who broke it, and who leaves the batch when."""

import pytest
import torch
from linear_problem import TwoClasses, defended, problem
from torch import Tensor

from bench.attacks import attacks
from bench.attacks.base import Oracle, Trace
from bench.attacks.cascade import Cascade
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.evaluate import evaluate
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise

THREAT = ThreatModel(epsilon=0.03)
WEAK = ("pgd_eot", {"steps": 1, "step_size": 0.01, "eot": 1, "start": "zero"}, None)
STRONG = ("pgd_eot", {"steps": 6, "step_size": 0.01, "eot": 2}, None)


def mirror(classifier: TwoClasses, images: Tensor) -> Defended:
    """A defense whose bare classifier misleads: the purifier reflects the image through the box's middle."""
    return Defended(lambda x, noise: 1 - x, TwoClasses(-classifier.w, -classifier.b))


def test_members_settle_in_order_and_are_named() -> None:
    classifier, images, labels, ids = problem()
    model, trace = defended(classifier), Trace()
    cascade = Cascade(members=(WEAK, STRONG), check_draws=2)
    adversarial = cascade.perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    THREAT.check(adversarial, images)
    radius = classifier.radius(images, "Linf")
    robust = model(adversarial, None).argmax(1) == labels
    assert torch.equal(robust, radius > 0.03)
    expected = {i: "pgd_eot" if radius[i] < 0.01 else "pgd_eot#2" for i in range(200) if radius[i] < 0.03}
    assert trace.broken_by == expected and set(expected.values()) == {"pgd_eot", "pgd_eot#2"}
    seen = {entry["attack"]: entry["images"] for entry in trace.curve()}
    assert seen == {"pgd_eot": 200, "pgd_eot#2": 200 - sum(name == "pgd_eot" for name in trace.broken_by.values())}


def test_a_gaussian_purifier_is_attacked_as_hard_as_by_the_best_member() -> None:
    """With noise the images that stay correct sometimes are not settled; each gets its exact worst case."""
    classifier, images, labels, ids = problem()
    model = defended(classifier, 0.1)
    adversarial = Cascade(members=(WEAK, STRONG)).perturb(model, images, labels, ids, THREAT, 0)
    left = classifier.value(images).abs() - 0.03 * classifier.w.abs().sum()
    signed = classifier.value(adversarial) * (2 * labels - 1)
    deviation = 0.1 * classifier.w.norm()
    exact, reached = (torch.distributions.Normal(0, 1).cdf(v / deviation) for v in (left, signed))
    assert 0 <= float((reached - exact).mean()) < 0.01
    assert (signed >= left - 1e-3).all()


@pytest.mark.parametrize("check_draws", [1, 3])
def test_a_few_lucky_check_draws_leave_no_image_as_it_is(check_draws: int) -> None:
    """Wrong in a third of the draws, whatever the image: three check draws are all wrong on one image in 27, by luck.
    Twenty are not: nothing is settled, so the strong member sees every image, and the exact worst case is kept."""
    classifier, images, labels, ids = problem(300)
    deviation = float(2.3 * classifier.value(images).abs().mean() / classifier.w.norm())
    model, trace = defended(classifier, deviation), Trace()
    Cascade(members=(STRONG,), check_draws=check_draws).perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    check = Oracle(model, labels, ids, 0, eot=check_draws, role="selection:cascade")
    lucky = ~check.evaluate(images, 0).correct.any(0) & (check.evaluate(images, 0).margin > 0)
    assert lucky.sum() > 5
    (first, *_) = trace.curve()
    assert first["images"] >= 300 - 2 and max(trace.looks.values()) == 20 + 6


def test_check_draws_count_as_looks_and_leave_no_image_without() -> None:
    classifier, images, labels, ids = problem(40)
    records = evaluate(
        defended(classifier, 0.1), Cascade(members=(WEAK, STRONG)), images, 1 - labels, ids, THREAT, draws=4, seed=0
    )  # wrong labels: the clean image is settled at once
    assert {record.broken_by for record in records} >= {"clean"}
    assert all(record.first_success is not None and record.null_first_success is not None for record in records)
    assert not any(record.first_success for record in records if record.broken_by == "clean")


def test_the_librarys_looks_are_the_cascades() -> None:
    classifier, images, labels, ids = problem(8)
    trace, members = Trace(), (("autoattack_rand", {}, None),)
    Cascade(members=members).perturb(defended(classifier, 0.02), images, labels, ids, THREAT, 0, trace=trace)
    assert max(trace.looks.values()) == 20 + 3


def test_an_image_that_only_exists_off_the_8_bit_grid_is_no_refuge() -> None:
    """Off the grid of 8 bits everything is restored: the member's images, but not their roundings, 7 levels away."""
    classifier, images, labels, ids = problem()
    images = (images * 255).round() / 255

    def purify(x: Tensor, noise: Noise) -> Tensor:
        off = ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(1).view(-1, 1, 1, 1)
        return torch.where(off, x + (images[noise.image_ids] - x).detach(), x)

    model, trace = Defended(purify, classifier), Trace()
    last = ("pgd_eot", {**STRONG[1], "select": "last"}, None)
    adversarial = Cascade(members=(last,), check_draws=1).perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    THREAT.check(adversarial, images)
    robust = model(adversarial, Noise(1, ids)).argmax(1) == labels
    assert torch.equal(~robust, classifier.radius(images, "Linf") < 7 / 255) and robust.any()
    assert set(trace.broken_by.values()) == {"pgd_eot in 8 bits"}


def test_a_lucky_draw_settles_nothing() -> None:
    """A classifier wrong in about 10 % of draws, whatever the image: no image is settled, all members see all."""
    classifier, images, labels, ids = problem(50)
    deviation = 0.8 * classifier.value(images).abs().mean() / classifier.w.norm()
    model, trace = defended(classifier, float(deviation)), Trace()
    members = (("clean", {}, None), STRONG)
    Cascade(members=members).perturb(model, images, labels, ids, ThreatModel(epsilon=1e-4), 0, trace=trace)
    check = Oracle(model, labels, ids, 0, eot=20, role="selection:cascade").evaluate(images, 0)
    lucky = (~check.correct).any(0)
    settled = (~check.correct).all(0)
    assert lucky.sum() > 10 and settled.sum() <= 2
    assert trace.curve()[-1]["images"] == 50 - int(settled.sum())


def test_images_wrong_without_attack_cost_nothing() -> None:
    classifier, images, labels, ids = problem(20)
    model, trace = defended(classifier), Trace()
    adversarial = Cascade(members=(WEAK,)).perturb(model, images, 1 - labels, ids, THREAT, 0, trace=trace)
    assert torch.equal(adversarial, images) and trace.curve() == []
    assert set(trace.broken_by.values()) == {"clean"} and len(trace.broken_by) == 20


def test_a_members_own_gradient_kind() -> None:
    """Straight-through climbs the wrong way behind a mirror; the exact member breaks what the first could not."""
    classifier, images, labels, ids = problem(60)
    model, trace = mirror(classifier, images), Trace()
    members = ((*STRONG[:2], "straight_through"), STRONG)
    assert Cascade(members=members).labels() == ["pgd_eot@straight_through", "pgd_eot"]
    Cascade(members=members).perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    radius = classifier.radius(images, "Linf")
    assert set(trace.broken_by.values()) == {"pgd_eot"} and len(trace.broken_by) == int((radius < 0.03).sum())
    assert model.gradient == "exact"


def test_transfer_looks_are_not_the_defenses_but_check_draws_are() -> None:
    classifier, images, labels, ids = problem(10)
    trace = Trace()
    members = ((*STRONG[:2], "transfer"),)
    Cascade(members=members).perturb(mirror(classifier, images), images, labels, ids, THREAT, 0, trace=trace)
    assert set(trace.looks.values()) == {20} and [c["attack"] for c in trace.curve()] == ["pgd_eot@transfer"] * 6


def test_batches_of_a_coupled_defense_stay_whole() -> None:
    classifier, images, labels, ids = problem(30)
    sizes: list[int] = []

    def purify(x: Tensor, noise: Noise) -> Tensor:
        sizes.append(len(x))
        return x + 0.01 * noise.shared(x.shape[1:], step=0)

    model, trace = Defended(purify, classifier, batch_coupled=True), Trace()
    adversarial = Cascade(members=(WEAK, STRONG)).perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    assert set(sizes) == {30} and all(c["images"] == 30 for c in trace.curve())
    alone = PGDEOT(**STRONG[1]).perturb(model, images, labels, ids, THREAT, 0)
    judged = [Oracle(model, labels, ids, 0, eot=20).evaluate(x, 0).correct.float().mean() for x in (adversarial, alone)]
    assert judged[0] <= judged[1] + 0.01


def test_batch_does_not_matter() -> None:
    classifier, images, labels, ids = problem(12)
    model = defended(classifier, 0.1)
    whole = Cascade().perturb(model, images, labels, ids, THREAT, 4)
    parts = [Cascade().perturb(model, images[r], labels[r], ids[r], THREAT, 4) for r in (slice(0, 5), slice(5, 12))]
    assert torch.equal(whole, torch.cat(parts))


def test_fields_travel_through_json_and_flags_follow_the_members() -> None:
    import json

    cascade = Cascade(members=(WEAK, ("stadv", {"steps": 2}, None)))
    assert attacks.make("cascade", json.loads(json.dumps(cascade.params()))) == cascade
    assert not cascade.restricted and not cascade.gradient_free and hash(cascade) == hash(cascade)
    assert Cascade(members=(("clean", {}, None),)).gradient_free and Cascade().restricted
    assert Cascade(members=(WEAK, STRONG), check_draws=5).queries() == (25, 1 + 12)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"settled": 0.4}, ValueError, "settled in"),
        ({"members": (("pgd", {}, None),)}, LookupError, "pgd_eot"),
        ({"members": (("pgd_eot", {"steps": 0}, None),)}, ValueError, "steps > 0"),
        ({"members": (("pgd_eot", {}, "bpda"),)}, ValueError, "straight_through"),
    ],
)
def test_ranges(fields: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cascade(**fields)


def test_switching_gradients_needs_no_rebuild_or_is_refused() -> None:
    classifier, *_ = problem(2)
    model = defended(classifier)
    view = model.with_gradient("transfer")
    assert view.classifier is model.classifier and view.with_gradient("exact").gradient == "exact"
    with pytest.raises(ValueError, match="guidance_detached"):
        model.with_gradient("guidance_detached")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_gold_reaches_the_exact_radius(norm: str) -> None:
    classifier, images, labels, ids = problem(100)
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    gold, trace = Gold(steps=10, apgd_steps=10, eot=1, check_draws=1), Trace()
    steps = gold.cascade(threat.epsilon).members[0][1]["step_size"]
    assert steps == pytest.approx(0.007 * threat.epsilon * 255 / 8)
    model = defended(classifier)
    robust = model(gold.perturb(model, images, labels, ids, threat, 0, trace=trace), None).argmax(1) == labels
    assert torch.equal(robust, classifier.radius(images, norm) > threat.epsilon)
    assert set(trace.broken_by.values()) <= set(gold.cascade(threat.epsilon).labels())
    with pytest.raises(ValueError, match="steps > 0"):
        Gold(steps=0)
