"""RayS+EOT: the exact radius of a linear classifier, from labels alone; blocks of signs."""

from itertools import islice

import pytest
from linear_problem import defended, problem

from bench.attacks.rays_eot import RaySEOT, blocks
from bench.threat import ThreatModel


def test_blocks_halve_until_each_place_is_alone() -> None:
    found = [(b.start, b.stop) for b in islice(blocks(4), 8)]
    assert found == [(0, 4), (0, 2), (2, 4), (0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]


@pytest.mark.parametrize("gradient", ["none", "straight_through"])
def test_reaches_the_exact_radius(gradient: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(epsilon=0.03, gradient=gradient)  # type: ignore[arg-type]
    model = defended(classifier, gradient=gradient)  # type: ignore[arg-type]
    x = RaySEOT(steps=120, eot=1).perturb(model, images, labels, ids, threat, 0)
    threat.check(x, images)
    robust, outside = model(x, None).argmax(1) == labels, classifier.radius(images, "Linf") > threat.epsilon
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert robust.float().mean() - outside.float().mean() <= 0.03


def test_noise_does_not_stop_it() -> None:
    classifier, images, labels, ids = problem(60)
    model, threat = defended(classifier, 0.02), ThreatModel(epsilon=0.06)
    x = RaySEOT(steps=60, eot=9).perturb(model, images, labels, ids, threat, 0)
    assert (defended(classifier)(x, None).argmax(1) == labels).float().mean() < 0.4


def test_another_norm_is_refused() -> None:
    classifier, images, labels, ids = problem(2)
    with pytest.raises(ValueError, match="norm Linf"):
        RaySEOT().perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=1.0, norm="L2"), 0)
