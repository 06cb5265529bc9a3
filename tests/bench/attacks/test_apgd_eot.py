"""APGD+EOT: the library's golden iterates, the exact radius, and a schedule that sees the mean over draws."""

import pytest
import torch
from golden import load
from golden_attacks import toy
from linear_problem import defended, problem

from bench.attacks.apgd_eot import APGDEOT, checkpoints
from bench.attacks.base import Oracle, Trace
from bench.threat import ThreatModel


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_golden_iterates(norm: str, loss: str) -> None:
    g, _ = load("attacks_steps")
    case = f"{norm}_{loss}"
    seen: list[torch.Tensor] = []

    def watch(x: torch.Tensor, noise: object) -> torch.Tensor:
        seen.append(x.detach())
        return x

    threat = ThreatModel(norm=norm, epsilon=8 / 255 if norm == "Linf" else 0.5)
    oracle = Oracle(toy(g, watch), g["labels"], torch.arange(4), 0, loss=loss)
    start = g[f"apgd_init_{case}"].clamp(0, 1)
    climb = APGDEOT(steps=10, eot=1, loss=loss).climb(oracle, g["x01"], threat, start)
    found = {"first": seen[1], "second": seen[2], "best": climb.best}
    for what, images in found.items():
        off = (images - g[f"apgd_{what}_{case}"]).abs().flatten(1).amax(1)
        # where the DLR saturates at 1 an L2 direction is that of a rounding error, and says nothing
        saturated = torch.isclose(g[f"apgd_bestloss_{case}"], torch.ones(4).double()) & (norm == "L2")
        assert (off[~saturated] < 1e-9).all() and saturated.sum() <= 1
    assert torch.allclose(climb.best_loss, g[f"apgd_bestloss_{case}"], rtol=1e-9)
    assert torch.allclose(climb.step_size.flatten(), g[f"apgd_step_{case}"])
    assert len(seen) == 11 and torch.equal(climb.margin > 0, ~g[f"apgd_acc_{case}"].bool())


def test_checkpoints_of_a_hundred_steps() -> None:
    """Croce & Hein give p_j = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 for the published shares."""
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == {1: 1} and list(checkpoints(10)) == [2, *range(3, 11)]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_reaches_the_exact_radius(norm: str, loss: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    attack = APGDEOT(steps=20, eot=1, loss=loss)
    adversarial = attack.perturb(defended(classifier), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    outside = classifier.radius(images, norm) > threat.epsilon
    robust = defended(classifier)(adversarial, None).argmax(1) == labels
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert (robust.float().mean() - outside.float().mean()).abs() <= 0.01


def test_gaussian_purifier() -> None:
    """Noise does not fool the step size: the chance of survival left is the analytic one."""
    classifier, images, labels, ids = problem()
    epsilon, sigma = 0.03, 0.1
    attack = APGDEOT(steps=25, eot=20)
    adversarial = attack.perturb(defended(classifier, sigma), images, labels, ids, ThreatModel(epsilon=epsilon), seed=0)
    left = classifier.value(images).abs() - epsilon * classifier.w.abs().sum()
    signed = classifier.value(adversarial) * (2 * labels - 1)
    chance = torch.distributions.Normal(0, sigma * classifier.w.norm()).cdf
    assert (chance(signed).mean() - chance(left).mean()).abs() < 0.01 and (signed >= left - 1e-5).all()


def test_batch_restarts_and_trace() -> None:
    classifier, images, labels, ids = problem(12)
    model, threat = defended(classifier, 0.2), ThreatModel(norm="L2", epsilon=0.12)
    attack, trace = APGDEOT(steps=5, eot=4, restarts=2), Trace()
    whole = attack.perturb(model, images, labels, ids, threat, 5, trace=trace)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert [c["step"] for c in trace.curve()] == list(range(12))


@pytest.mark.parametrize(("fields", "message"), [({"eot": 0}, "eot > 0"), ({"rho": 0.0}, r"rho in \(0, 1\]")])
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APGDEOT(**fields)
