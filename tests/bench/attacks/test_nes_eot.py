"""NES+EOT: the exact radius, and plateaus on which a gradient is zero."""

import pytest
import torch
from linear_problem import TwoClasses, defended, problem
from torch import Tensor

from bench.attacks.base import Oracle, Trace
from bench.attacks.nes_eot import NESEOT
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise


def rounded(classifier: TwoClasses, sigma: float = 0.0, levels: int = 25) -> Defended:
    """A defense that rounds to 1 / levels: constant nearly everywhere, so its exact gradient is zero."""

    def purify(x: Tensor, noise: Noise) -> Tensor:
        if sigma:
            x = x + sigma * noise.normal(x, step=0)
        return (x * levels).round() / levels

    return Defended(purify, classifier)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_exact_radius(norm: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12, gradient="none")
    model = defended(classifier, gradient="none")
    adversarial = NESEOT(steps=25, samples=16).perturb(model, images, labels, ids, threat, 0)
    threat.check(adversarial, images)
    robust, outside = model(adversarial, None).argmax(1) == labels, classifier.radius(images, norm) > threat.epsilon
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert robust.float().mean() - outside.float().mean() <= 0.03


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_crosses_a_plateau_where_pgd_stands_still(sigma: float) -> None:
    classifier, images, labels, ids = problem(100)
    model, threat = rounded(classifier, sigma), ThreatModel(epsilon=0.04)

    def left(x: Tensor) -> float:
        return float(Oracle(model, labels, ids, 1, eot=20, role="test").evaluate(x, 0).correct.float().mean())

    pgd = PGDEOT(steps=20, step_size=0.01, eot=4, start="zero").perturb(model, images, labels, ids, threat, 0)
    assert torch.equal(pgd, images)  # rounding has no gradient at all
    nes = NESEOT(steps=25, samples=16).perturb(model, images, labels, ids, threat, 0)
    best = left(images - threat.epsilon * (2 * labels - 1).view(-1, 1, 1, 1) * classifier.w.sign())
    assert left(pgd) > 0.8 and left(nes) < best + 0.08 < 0.5
    narrow = NESEOT(steps=25, samples=16, sigma=0.01).perturb(rounded(classifier), images, labels, ids, threat, 0)
    assert left(narrow) > left(nes) + 0.2  # the width is what sees past it


def test_a_start_from_the_classifiers_own_adversarial_image() -> None:
    classifier, images, labels, ids = problem(20)
    model, threat = defended(classifier, 0.1), ThreatModel(epsilon=0.03)
    bare = Defended(lambda x, noise: x, classifier)
    attack = NESEOT(steps=1, samples=1, first_step=1e-6, start="transfer")
    one_step = attack.perturb(model, images, labels, ids, threat, 0)
    assert (bare(one_step).argmax(1) != labels).sum() > (bare(images).argmax(1) != labels).sum()


def test_draws_are_fresh_and_batches_do_not_matter() -> None:
    classifier, images, labels, ids = problem(9)
    seen: list[int] = []

    def purify(x: Tensor, noise: Noise) -> Tensor:
        seen.append(int(noise.draws[0]))
        return x + 0.1 * noise.normal(x, step=0)

    model, threat, trace = Defended(purify, classifier), ThreatModel(epsilon=0.03), Trace()
    attack = NESEOT(steps=3, samples=2)
    whole = attack.perturb(model, images, labels, ids, threat, 5, trace=trace)
    assert seen == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7, 8, 8]  # a pair shares its draw, nothing else does
    assert attack.queries() == (len(seen), 0) and set(trace.looks.values()) == {attack.looks()}
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 4), slice(4, 9))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "samples > 0"),
        ({"sigma": 0.0}, "sigma > 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"loss": "mse"}, "loss among"),
        ({"start": "zero"}, "start among"),
    ],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NESEOT(**fields)
