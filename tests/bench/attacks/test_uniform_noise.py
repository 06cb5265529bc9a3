"""The noise control: uniform in the ball, whatever the batch, and never an attack."""

import pytest
import torch
from linear_problem import defended, problem

from bench.attacks.noise import UniformNoise
from bench.threat import ThreatModel


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_uniform_in_the_ball(norm: str) -> None:
    """(r / e)**d is uniform, so its mean is 1 / 2; a coordinate's variance is e**2 / 3 in the cube."""
    images = torch.full((4000, 1, 2, 2), 0.5)
    threat = ThreatModel(norm=norm, epsilon=0.2)
    noisy = UniformNoise().perturb(None, images, None, torch.arange(4000), threat, 3)
    share = threat.distance(noisy, images) / 0.2
    assert abs((share**4).mean() - 0.5) < 0.02 and 0.97 < share.max() <= 1 + 1e-5
    delta = noisy - images
    assert abs(delta.mean()) < 0.005
    variance = 0.2**2 / (3 if norm == "Linf" else 6)  # (L2: e**2 / (d + 2))
    assert torch.allclose(delta.var(0), torch.full((1, 2, 2), variance), rtol=0.08)


def test_batch_and_seed() -> None:
    classifier, images, labels, ids = problem(12)
    threat, attack = ThreatModel(epsilon=0.1), UniformNoise()
    whole = attack.perturb(defended(classifier), images, labels, ids, threat, 5)
    part = attack.perturb(defended(classifier), images[3:7], labels[3:7], ids[3:7], threat, 5)
    assert torch.equal(whole[3:7], part)
    assert not torch.equal(whole, attack.perturb(defended(classifier), images, labels, ids, threat, 6))


def test_breaks_nothing_outside_the_radius_and_little_inside() -> None:
    classifier, images, labels, ids = problem()
    noisy = UniformNoise().perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.03), 0)
    robust = defended(classifier)(noisy, None).argmax(1) == labels
    outside = classifier.radius(images, "Linf") > 0.03
    assert robust[outside].all() and robust.float().mean() > 0.8 > outside.float().mean() + 0.4
