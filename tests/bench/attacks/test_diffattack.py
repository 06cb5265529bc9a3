"""DiffAttack: the gradient of its whole loss, however the steps are replayed, and its strength."""

import pytest
import torch
from golden import load, toy_score
from linear_problem import TwoClasses, defended
from torch import Tensor

from bench.attacks.base import Oracle, Trace
from bench.attacks.diffattack import DiffAttack, deviating
from bench.attacks.losses import cross_entropy
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.ddpm import DDPM
from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion import to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.noise import Noise

IDS = torch.arange(4)


def build(defense: type[DiffusionPurifier] = DiffPureSDE) -> tuple[Defended, Tensor, Tensor]:
    """A purifier with the fixture's toy network in float64, images and labels."""
    g, _ = load("diffpure_sde")
    classifier = TwoClasses(torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.0)
    classifier.b = -float(classifier.value(torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)))
    labels = (classifier.value(g["x01"]) > 0).long()
    return defense(t=0.03, steps=6).defend(classifier, toy_score(g)), g["x01"], labels


def objective(model: Defended, x: Tensor, labels: Tensor, noise: Noise, deviation: float, weighting: str) -> Tensor:
    """The sum in the docstring, by plain autograd over the whole graph."""
    terms = []
    clean, forward = to_model_space(x), noise.normal(x, step=0)

    class Recording:
        def __init__(self, score) -> None:
            self.score, self.schedule = score, score.schedule

        def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
            self.add(x_t, self.schedule.alpha_bar(t).to(x_t).view(-1, 1, 1, 1))
            return self.score.epsilon(x_t, t)

        def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
            self.add(x_t, torch.full((1, 1, 1, 1), self.schedule.alpha_bar_at(int(index[0])), dtype=x_t.dtype))
            return self.score.epsilon_at(x_t, index)

        def add(self, x_t: Tensor, a: Tensor) -> None:
            difference = x_t - a.sqrt() * clean - (1 - a).sqrt() * forward
            weight = a.flatten() if weighting == "alpha_bar" else 1.0
            terms.append(weight * (difference**2).flatten(1).mean(1))

    logits = model.classifier(model.with_score(Recording)(x, noise))
    return (cross_entropy(logits, labels) + deviation * torch.stack(terms).sum(0)).sum()


@pytest.mark.parametrize("every", [None, 0, 1, 4])
@pytest.mark.parametrize(("defense", "weighting"), [(DiffPureSDE, "uniform"), (DDPM, "alpha_bar")])
def test_gradient_of_the_whole_loss(
    monkeypatch: pytest.MonkeyPatch, every: int | None, defense: type[DiffusionPurifier], weighting: str
) -> None:
    monkeypatch.setattr(defense, "checkpoint_every", every)
    model, images, labels = build(defense)
    oracle = Oracle(deviating(model, 500.0 / 2, weighting), labels, IDS, 3, eot=2)
    found = oracle.gradient(images, 0).gradient
    monkeypatch.setattr(defense, "checkpoint_every", 0)
    expected = torch.zeros_like(images)
    for draw in (0, 1):
        x = images.clone().requires_grad_()
        loss = objective(model, x, labels, Noise(oracle.seed, IDS, draw), 500.0, weighting) / 2
        expected += torch.autograd.grad(loss, x)[0]
    plain = Oracle(model, labels, IDS, 3, eot=2).gradient(images, 0).gradient
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-10)
    assert (found - plain).norm() > 0.01 * plain.norm()


def test_answers_are_the_defenses() -> None:
    model, images, labels = build()
    answers = [Oracle(m, labels, IDS, 3, eot=2).gradient(images, 0) for m in (model, deviating(model, 1.0))]
    assert torch.equal(answers[0].loss, answers[1].loss) and torch.equal(answers[0].margin, answers[1].margin)


def test_without_deviation_it_is_pgd_and_batches_do_not_matter() -> None:
    model, images, labels = build()
    threat, fields = ThreatModel(epsilon=0.05), {"steps": 3, "step_size": 0.02, "eot": 2}
    trace = Trace()
    plain = DiffAttack(deviation=0.0, **fields).perturb(model, images, labels, IDS, threat, 1, trace=trace)
    pgd = PGDEOT(select="best", **fields).perturb(model, images, labels, IDS, threat, 1)
    assert torch.equal(plain, pgd) and {c["attack"] for c in trace.curve()} == {"diffattack"}
    attack = DiffAttack(deviation=5.0, **fields)
    whole = attack.perturb(model, images, labels, IDS, threat, 1)
    parts = [attack.perturb(model, images[r], labels[r], IDS[r], threat, 1) for r in (slice(0, 1), slice(1, 4))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-9)
    threat.check(whole, images)
    margins = [Oracle(model, labels, IDS, 1, eot=20, role="judge").evaluate(x, 0).margin for x in (images, whole)]
    assert (margins[1] > margins[0]).all()


def test_needs_a_score_network_and_the_exact_gradient() -> None:
    model, images, labels = build()
    with pytest.raises(ValueError, match="gradient='transfer'. Use pgd_eot"):
        deviating(model.with_gradient("transfer"), 1.0)
    with pytest.raises(ValueError, match="no score network"):
        deviating(defended(model.classifier), 1.0)
    blind = defended(model.classifier)
    blind.with_score = lambda wrap: (wrap(None), lambda x, noise: x)[1]
    with pytest.raises(ValueError, match="no state"):
        Oracle(deviating(blind, 1.0), labels, IDS, 0).gradient(images, 0)
    with pytest.raises(ValueError, match="deviation >= 0"):
        DiffAttack(deviation=-1)
