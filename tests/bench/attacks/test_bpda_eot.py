"""BPDA+EOT: Hill et al.'s golden run with its verifications, and the exact radius."""

import pytest
import torch
from golden import load
from golden_attacks import toy, wave
from linear_problem import defended, problem
from torch import Tensor

from bench.attacks.base import Trace
from bench.attacks.bpda_eot import BPDAEOT, Replicates, Search
from bench.threat import ThreatModel
from defenses.noise import Noise

IDS = torch.arange(4)


class Replay:
    """The fixtures' purifier: its noise depends on the call's number and on the place in the purified tensor.

    The reference purifies the copies of each doubtful image in a call of its own.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        copies = len(noise.draws.unique())
        verifying = copies == 20
        parts = x.view(copies, -1, *x.shape[1:]).unbind(1) if verifying else [x]
        waves = [wave(part, self.calls + k) for k, part in enumerate(parts)]
        self.calls += len(parts)
        added = torch.stack(waves, 1).view_as(x) if verifying else waves[0]
        return 0.9 * x + 0.05 + 0.08 * added


@pytest.mark.parametrize("fixture", ["bpda_eot", "bpda_eot_clean"])
def test_golden_run(fixture: str) -> None:
    """Every call of the reference, the first look at the clean batch and its verifications included."""
    g, record = load(fixture)
    purify, ids = Replay(), torch.arange(len(g["labels"]))
    model = toy(g, purify, "straight_through")
    attack = BPDAEOT(steps=12, defense_replicates=20)
    threat = ThreatModel(epsilon=2 / 255, gradient="straight_through")
    path, looked_at = [torch.ones_like(g["labels"], dtype=torch.bool)], []
    at, replicates = Search(*[g["x01"]] * 3, ~path[0]), Replicates(model, g["labels"], ids, 0)
    for look in range(len(g["defended_path"])):
        attack.take(look, at, replicates, g["x01"], threat)
        path.append(~at.settled)
        looked_at.append(at.seen)
    assert torch.equal(torch.stack(path[1:]), g["defended_path"].bool())
    assert purify.calls == record["meta"]["purify_calls"]
    assert torch.equal(looked_at[0], looked_at[1]) and torch.equal(looked_at[0], g["x01"])
    purify.calls = 0
    adversarial = attack.perturb(model, g["x01"], g["labels"], ids, threat, 0)
    tolerance = 1e-9 if fixture == "bpda_eot_clean" else 1e-7  # the older reference keeps its result in float32
    assert torch.allclose(adversarial, g["adv"], rtol=0, atol=tolerance)


def test_an_image_broken_in_the_first_look_is_returned_clean() -> None:
    g, _ = load("bpda_eot_clean")
    ids = torch.arange(len(g["labels"]))
    attack, threat = BPDAEOT(steps=12, defense_replicates=20), ThreatModel(epsilon=2 / 255, gradient="straight_through")
    adversarial = attack.perturb(toy(g, Replay(), "straight_through"), g["x01"], g["labels"], ids, threat, 0)
    first = ~g["defended_path"][0].bool()
    assert first.sum() == 1 and torch.equal(adversarial[first], g["x01"][first])


@pytest.mark.parametrize(("norm", "epsilon", "step"), [("Linf", 8 / 255, 2 / 255), ("L2", 0.5, 0.1)])
def test_golden_step(norm: str, epsilon: float, step: float) -> None:
    g, _ = load("bpda_eot")
    model = toy(g, Replay(), "straight_through")
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    logits, gradient = Replicates(model, g["labels"], IDS, 0).gradient(g["x01"], 0, 15)
    assert torch.allclose(gradient / (4 * 15), g["grad_first"], rtol=0, atol=1e-12)
    assert torch.equal(logits.mean(0).argmax(1) == g["labels"], g["correct_first"].bool())
    start, golden = (g["x01"], "pgd_linf_step") if norm == "Linf" else (g["l2_start"], "pgd_l2_step")
    moved = threat.project(start + step * threat.direction(gradient), g["x01"])
    assert torch.allclose(moved, g[golden], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "sigma"), [("Linf", 0.0), ("L2", 0.0), ("Linf", 0.1)])
def test_reaches_the_exact_radius(norm: str, sigma: float) -> None:
    classifier, images, labels, ids = problem()
    epsilon, step = (0.03, 2 / 255) if norm == "Linf" else (0.12, 0.04)
    threat = ThreatModel(norm=norm, epsilon=epsilon, gradient="straight_through")
    attack, trace = BPDAEOT(steps=8, step_size=step, eot=4, defense_replicates=20), Trace()
    model = defended(classifier, sigma, "straight_through")
    adversarial = attack.perturb(model, images, labels, ids, threat, 0, trace=trace)
    threat.check(adversarial, images)
    outside = classifier.radius(images, norm) > epsilon
    robust = (classifier.value(adversarial) > 0).long() == labels
    if not sigma:
        assert robust[outside].all() and robust.float().mean() <= outside.float().mean() + 0.01
        assert trace.notes == [f"bpda_eot verified {int((~outside).sum())} of 200 images as broken"]
    else:  # an image that noise lets through early keeps a smaller perturbation, so only the never broken reach the end
        signed = classifier.value(adversarial) * (2 * labels - 1)
        left = classifier.value(images).abs() - epsilon * classifier.w.abs().sum()
        assert (signed >= left - 1e-4).all() and ((signed - left).abs() < 1e-4)[left > 0.5].all()


def test_batch_does_not_matter() -> None:
    classifier, images, labels, ids = problem(12)
    model = defended(classifier, 0.3, "straight_through")
    threat = ThreatModel(epsilon=0.03, gradient="straight_through")
    attack = BPDAEOT(steps=4, eot=3, defense_replicates=7)
    whole = attack.perturb(model, images, labels, ids, threat, 5)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


def test_another_gradient_is_refused_with_a_remedy() -> None:
    classifier, images, labels, ids = problem(2)
    with pytest.raises(ValueError, match="Set gradient='straight_through'"):
        BPDAEOT().perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.1), 0)
