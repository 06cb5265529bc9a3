"""Momentum PGD: its update step by step, the exact radius, noise averaged over the steps, starts and gradient kinds."""

import math
from typing import Any

import pytest
import torch
from linear_problem import TwoClasses, defended, problem
from torch import Tensor

from bench.attacks.base import Oracle, Trace
from bench.attacks.momentum_pgd import MomentumPGD
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise


class Curved(TwoClasses):
    """A nonlinear value, so that a wrong weight of the mean or of the step shows."""

    def value(self, x: Tensor) -> Tensor:
        return super().value(x + 3 * (x - 0.5) ** 3)


def curved(sigma: float = 0.1) -> tuple[Defended, Tensor, Tensor, Tensor]:
    classifier, images, labels, ids = problem(6)
    return defended(Curved(classifier.w, classifier.b), sigma), images, labels, ids


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_update_is_the_stated_one(norm: str) -> None:
    model, images, labels, ids = curved()
    threat, steps = ThreatModel(norm=norm, epsilon=0.05 if norm == "Linf" else 0.3), 9
    oracle = Oracle(model, labels, ids, 3, loss="ce")
    x, v = images, torch.zeros_like(images)
    for k in range(steps):
        v = 0.75 * v + 0.25 * oracle.gradient(x, k).gradient
        length = 0.2231 * threat.epsilon * (1 + math.cos(math.pi * k / steps)) / 2
        d = v.sign() if norm == "Linf" else v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        x = threat.project(x + length * d, images)
    found = MomentumPGD(steps=steps).perturb(model, images, labels, ids, threat, 3)
    assert torch.allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("start", ["clean", "transfer"])
def test_reaches_the_exact_radius(norm: str, loss: str, start: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    attack: Any = MomentumPGD(steps=20, loss=loss, start=start)
    adversarial = attack.perturb(defended(classifier), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    robust, outside = defended(classifier)(adversarial, None).argmax(1) == labels, classifier.radius(images, norm)
    assert robust[outside > threat.epsilon].all()
    assert (robust.float().mean() - (outside > threat.epsilon).float().mean()).abs() <= 0.01


def test_noise_is_averaged_over_the_steps() -> None:
    """Gradients so noisy that one draw points anywhere: plain PGD of one draw ends in the middle of the ball."""
    classifier, images, labels, ids = problem(150)

    def purify(x: Tensor, noise: Noise) -> Tensor:
        return x * (1 + 4 * noise.normal(x, step=0)) - 2 * noise.normal(x, step=0)  # mean x, its factor's deviation 4

    model, threat = Defended(purify, classifier), ThreatModel(epsilon=0.04)

    def margin(attack: Any) -> float:
        x = attack.perturb(model, images, labels, ids, threat, 0)
        return float(((classifier.value(x) - classifier.value(images)) * (1 - 2 * labels)).mean())

    whole = threat.epsilon * float(classifier.w.abs().sum())
    fresh = margin(MomentumPGD(steps=160, loss="margin"))
    one = margin(PGDEOT(steps=160, step_size=0.2231 * 0.04, eot=1, loss="margin", start="zero"))
    assert fresh > 0.85 * whole and fresh > one + 0.2 * whole


def test_draws_are_fresh_looks_are_counted_and_batches_do_not_matter() -> None:
    classifier, images, labels, ids = problem(9)
    model, threat, trace = defended(classifier, 0.2), ThreatModel(epsilon=0.03), Trace()
    attack = MomentumPGD(steps=5, loss="margin", start="transfer")
    whole = attack.perturb(model, images, labels, ids, threat, 5, trace=trace)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 4), slice(4, 9))]
    assert torch.equal(whole, torch.cat(parts))
    assert attack.queries() == (0, 5) and set(trace.looks.values()) == {5} == {attack.looks()}


def mirror(classifier: TwoClasses) -> Defended:
    """A defense whose bare classifier misleads, with a surrogate that does not; it counts what is asked of each."""
    asked = {"real": 0, "surrogate": 0}

    def build(kind: Any = "exact") -> Defended:
        def purify(x: Tensor, noise: Noise) -> Tensor:
            asked["real"] += 1
            return 1 - x

        def cheap(x: Tensor, noise: Noise) -> Tensor:
            asked["surrogate"] += 1
            return 1 - x

        inverse = TwoClasses(-classifier.w, -classifier.b)
        return Defended(purify, inverse, gradient=kind, surrogate=cheap, rebuild=build, kinds=("exact", "surrogate"))

    model = build()
    model.asked = asked  # type: ignore[assignment]
    return model


def test_another_kind_of_gradient_and_a_start_on_the_surrogate() -> None:
    classifier, images, labels, ids = problem(60)
    model, threat, trace = mirror(classifier), ThreatModel(epsilon=0.03), Trace()
    outside = classifier.radius(images, "Linf") > 0.03
    attack = MomentumPGD(steps=10, gradient="surrogate")
    found = attack.perturb(model, images, labels, ids, threat, 0, trace=trace)
    assert torch.equal(model(found, None).argmax(1) == labels, outside)
    assert not trace.looks and len(trace.curve()) == 10  # the surrogate is not the defense
    model.asked.update(real=0, surrogate=0)
    started = MomentumPGD(steps=10, start="surrogate", loss="margin")
    found = started.perturb(model, images, labels, ids, threat, 0)
    assert model.asked == {"real": 10, "surrogate": 10} and started.queries() == (0, 20)
    assert torch.equal(model(found, None).argmax(1) == labels, outside)
    wrong = MomentumPGD(steps=10, gradient="straight_through").perturb(model, images, labels, ids, threat, 0)
    assert (model(wrong, None).argmax(1) == labels).float().mean() > outside.float().mean() + 0.3
    with pytest.raises(ValueError, match="guidance_detached"):
        MomentumPGD(steps=1, gradient="guidance_detached").perturb(model, images, labels, ids, threat, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps > 0"),
        ({"first_step": 0.0}, "first_step > 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"loss": "mse"}, "loss among"),
        ({"start": "zero"}, "start among"),
        ({"gradient": "bpda"}, "gradient among"),
    ],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MomentumPGD(**fields)
