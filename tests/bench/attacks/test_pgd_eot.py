"""PGD+EOT on a linear classifier reaches the analytic robust accuracy, and what it reports is true."""

import pytest
import torch
from linear_problem import TwoClasses, defended, problem

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Attack, Oracle, Trace
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("start", ["zero", "random"])
def test_reaches_the_exact_radius(norm: str, loss: str, start: str) -> None:
    classifier, images, labels, ids = problem()
    epsilon = 0.03 if norm == "Linf" else 0.12
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    attack = PGDEOT(steps=20, step_size=epsilon / 4, eot=1, loss=loss, start=start)
    adversarial = attack.perturb(defended(classifier), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    radius = classifier.radius(images, norm)
    robust = defended(classifier)(adversarial, None).argmax(1) == labels
    assert 0.1 < (radius > epsilon).float().mean() < 0.9
    assert robust[radius > epsilon].all()
    assert (robust.float().mean() - (radius > epsilon).float().mean()).abs() <= 0.01


def test_gaussian_purifier() -> None:
    """Behind noise of deviation s a linear margin m is classified right with probability Phi(m / (s |w|))."""
    classifier, images, labels, ids = problem()
    epsilon, sigma = 0.03, 0.1
    model = defended(classifier, sigma)
    attack = PGDEOT(steps=10, step_size=0.01, eot=8)
    adversarial = attack.perturb(model, images, labels, ids, ThreatModel(epsilon=epsilon), seed=0)
    left = (classifier.value(images).abs() - epsilon * classifier.w.abs().sum()) / (sigma * classifier.w.norm())
    signed = classifier.value(adversarial) * (2 * labels - 1) / (sigma * classifier.w.norm())
    assert torch.allclose(signed, left, atol=1e-3)


def test_batch_and_micro_batch_do_not_matter() -> None:
    classifier, images, labels, ids = problem(12)
    model, threat = defended(classifier, 0.2), ThreatModel(epsilon=0.03)
    attack = PGDEOT(steps=3, eot=4, restarts=2, start="zero_then_random", select="best")
    whole = attack.perturb(model, images, labels, ids, threat, seed=5)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, seed=5) for r in (slice(0, 5), slice(5, 12))]
    assert torch.equal(whole, torch.cat(parts))
    oracle = Oracle(model, labels, ids, 5, eot=4)
    answer = oracle.gradient(images, 8)
    for rows in (24, 12, 5, 1):
        oracle._rows = rows
        split = oracle.gradient(images, 8)
        assert torch.allclose(split.gradient, answer.gradient, atol=1e-6)
        assert torch.equal(split.correct, answer.correct)
        assert torch.allclose(split.loss, answer.loss) and torch.allclose(split.margin, answer.margin, atol=1e-6)


def test_memory_back_off_halves_and_says_so() -> None:
    classifier, images, labels, ids = problem(8)
    seen: list[int] = []

    class Small(type(classifier)):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            if len(x) > 10:
                raise torch.OutOfMemoryError("too many rows")
            return super().forward(x)

    trace = Trace()
    model = defended(Small(classifier.w, classifier.b), 0.1)
    PGDEOT(steps=1, eot=4).perturb(model, images, labels, ids, ThreatModel(epsilon=0.03), 0, trace=trace)
    assert seen[0] == 32 and max(seen[2:]) <= 10 and len(trace.notes) == 2
    assert "8 rows a pass instead of 16" in trace.notes[-1]


def test_trace_counts_looks() -> None:
    classifier, images, labels, ids = problem(30)
    trace = Trace()
    attack = PGDEOT(steps=5, step_size=0.02, eot=2)
    attack.perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.04), 0, trace=trace)
    curve = trace.curve()
    assert [c["step"] for c in curve] == list(range(5)) and all(c["images"] == 30 for c in curve)
    assert curve[-1]["accuracy"] < curve[0]["accuracy"] and set(trace.looks.values()) == {5}
    assert 0 < sum(trace.survived.values()) < 30


def test_no_gradient_is_an_error_with_a_remedy() -> None:
    classifier, images, labels, ids = problem(2)
    model = defended(classifier, gradient="none")
    with pytest.raises(ValueError, match="square_eot"):
        PGDEOT(steps=1, eot=1).perturb(model, images, labels, ids, ThreatModel(epsilon=0.1, gradient="none"), 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"steps": 0}, "steps > 0"), ({"loss": "mse"}, "loss among"), ({"momentum": 1.0}, r"momentum in \[0, 1\)")],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGDEOT(**fields)


@pytest.mark.parametrize(
    "attack", [PGDEOT(steps=20, step_size=0.06, eot=1, start="zero"), APGDEOT(steps=20, eot=1)], ids=repr
)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_confident_classifier_is_no_robust_one(attack: Attack, norm: str) -> None:
    """Logits that lie 40 apart make the gradient of cross-entropy as small as e^-40, and not its direction."""
    classifier, images, labels, ids = problem(80)
    images, labels, ids = (each[labels == 0] for each in (images, labels, ids))  # where float32 does not round it to 0
    apart = 0.3 * (2 * labels - 1) - classifier.value(images)  # all of them to the same distance
    images = images + apart.view(-1, 1, 1, 1) * classifier.w / classifier.w.square().sum()
    sure = TwoClasses(40 / 0.3 * classifier.w, 40 / 0.3 * classifier.b)
    threat = ThreatModel(norm=norm, epsilon=1.3 * float(classifier.radius(images, norm).max()))
    assert (sure(images).argmax(1) == labels).all()
    adversarial = attack.perturb(defended(sure), images, labels, ids, threat, 0)
    assert not (sure(adversarial).argmax(1) == labels).any()
