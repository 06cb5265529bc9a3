"""SPSA+EOT: directions are signs, and the estimate finds the exact radius."""

import pytest
import torch
from linear_problem import defended, problem

from bench.attacks.spsa_eot import SPSAEOT
from bench.threat import ThreatModel
from defenses.noise import Noise


def test_directions_are_signs_with_equal_chance() -> None:
    v = SPSAEOT().direction(Noise(1, torch.arange(50)), torch.zeros(50, 1, 8, 8), 3)
    assert set(v.unique().tolist()) == {-1.0, 1.0} and abs(float(v.mean())) < 0.06


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_exact_radius(norm: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12, gradient="none")
    model = defended(classifier, gradient="none")
    x = SPSAEOT(steps=25, samples=16).perturb(model, images, labels, ids, threat, 0)
    threat.check(x, images)
    robust, outside = model(x, None).argmax(1) == labels, classifier.radius(images, norm) > threat.epsilon
    assert robust[outside].all() and robust.float().mean() - outside.float().mean() <= 0.03
