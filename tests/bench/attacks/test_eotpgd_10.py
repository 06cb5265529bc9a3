"""EOTPGD: torchattacks' golden run, and the exact radius."""

import pytest
import torch
from golden import load
from golden_attacks import toy, wave
from linear_problem import defended, problem

from bench.attacks.eotpgd_10 import EOTPGD10
from bench.threat import ThreatModel


def test_golden_run() -> None:
    g, record = load("attacks_steps")
    calls = 0

    def purify(x: torch.Tensor, noise: object) -> torch.Tensor:
        """The fixture purifies the five draws of a step one after the other; here they come in one batch."""
        nonlocal calls
        out = torch.cat([0.9 * part + 0.05 + 0.05 * wave(part, calls + k) for k, part in enumerate(x.split(4))])
        calls += len(x) // 4
        return out

    attack = EOTPGD10(eot=5, random_start=False)
    threat = ThreatModel(epsilon=8 / 255)
    adversarial = attack.perturb(toy(g, purify), g["x01"], g["labels"], torch.arange(4), threat, 0)
    assert calls == record["meta"]["eotpgd_calls"]
    assert torch.allclose(adversarial, g["eotpgd"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_reaches_the_exact_radius(sigma: float) -> None:
    """Ten steps of 2/255 cross the ball of 0.03, so even behind noise the analytic margin is what is left."""
    classifier, images, labels, ids = problem()
    threat = ThreatModel(epsilon=0.03)
    adversarial = EOTPGD10(eot=4).perturb(defended(classifier, sigma), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    left = classifier.value(images).abs() - 0.03 * classifier.w.abs().sum()
    assert torch.allclose(classifier.value(adversarial) * (2 * labels - 1), left, atol=1e-4)


def test_l2_is_refused_with_a_remedy() -> None:
    classifier, images, labels, ids = problem(2)
    with pytest.raises(ValueError, match="Use pgd_eot or apgd_eot"):
        EOTPGD10().perturb(defended(classifier), images, labels, ids, ThreatModel(norm="L2", epsilon=0.5), 0)
