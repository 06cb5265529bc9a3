"""Transfer: the exact radius of the bare classifier, with a defense that is never asked."""

import pytest
import torch
from linear_problem import defended, problem
from torch import Tensor

from bench.attacks.transfer import Transfer
from bench.threat import ThreatModel
from defenses.noise import NoiseSource


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_reaches_the_exact_radius(norm: str, sigma: float) -> None:
    """A Gaussian purifier keeps the steepest direction, so its analytic margin is what is left as well."""
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12, gradient="transfer")
    model = defended(classifier, sigma, "none")
    adversarial = Transfer(steps=20).perturb(model, images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    dual = classifier.w.abs().sum() if norm == "Linf" else classifier.w.norm()
    left = classifier.value(images).abs() - threat.epsilon * dual
    signed = classifier.value(adversarial) * (2 * labels - 1)
    assert torch.allclose(signed, left, atol=0.01) and (signed >= left - 1e-5).all()


def test_the_defense_is_never_asked() -> None:
    classifier, images, labels, ids = problem(4)

    def ask(images: Tensor, noise: NoiseSource) -> Tensor:
        raise AssertionError("The defense was asked.")

    model = defended(classifier).with_purify(lambda purify: ask)
    adversarial = Transfer(steps=3).perturb(model, images, labels, ids, ThreatModel(epsilon=0.03), 0)
    assert (classifier.value(adversarial) != classifier.value(images)).all()


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="restarts > 0"):
        Transfer(restarts=0)
