"""PGD-T+EOT: the exact radius, a class that untargeted PGD does not leave, fresh draws, and the losses by hand."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from linear_problem import defended, problem
from torch import Tensor, nn

from bench.attacks.base import Trace
from bench.attacks.cascade import Cascade
from bench.attacks.losses import targeted_cross_entropy
from bench.attacks.pgd_eot import PGDEOT, WEAK
from bench.attacks.pgd_t_eot import PGDTEOT
from bench.records import WEAK_ATTACK
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise


def test_the_targeted_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), 0.0]])
    found = targeted_cross_entropy(logits, torch.tensor([0]), torch.tensor([1]))
    assert found.item() == pytest.approx(math.log(3 / 5))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_reaches_the_exact_radius(norm: Literal["Linf", "L2"], loss: Literal["margin", "ce"]) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    model = defended(classifier)
    attack = PGDTEOT(steps=10, step_size=threat.epsilon / 4, eot=1, targets=1, loss=loss)
    x = attack.perturb(model, images, labels, ids, threat, 0)
    threat.check(x, images)
    outside = classifier.radius(images, norm) > threat.epsilon
    robust = model(x, None).argmax(1) == labels
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert (robust & ~outside).float().mean() <= 0.01


class Decoy(nn.Module):
    """Class 1 leads everywhere near the image, and never wins; class 2 wins far along the other direction."""

    def forward(self, x: Tensor) -> Tensor:
        along = x.flatten(1).mean(1) - 0.5
        return torch.stack((torch.zeros_like(along), -0.1 + 0.05 * torch.tanh(50 * along), -5 * (along + 0.15)), 1)


def test_it_passes_a_class_that_never_wins() -> None:
    model, images = Defended(lambda x, noise: x, Decoy()), torch.full((4, 1, 4, 4), 0.5)
    given = (model, images, torch.zeros(4, dtype=torch.int64), torch.arange(4), ThreatModel(epsilon=0.2), 0)
    settings = {"steps": 20, "step_size": 0.05, "eot": 1, "start": "zero"}
    untargeted = PGDEOT(**settings, loss="margin", select="best").perturb(*given)
    assert (model(untargeted, None).argmax(1) == 0).all()
    assert (model(PGDTEOT(**settings, targets=1).perturb(*given), None).argmax(1) == 0).all()  # the decoy alone
    assert (model(PGDTEOT(**settings, targets=2).perturb(*given), None).argmax(1) == 2).all()


def test_every_step_and_every_target_has_draws_of_its_own() -> None:
    asked: list[tuple[int, int]] = []
    classifier, images, labels, ids = problem(3)

    def purify(x: Tensor, noise: Noise) -> Tensor:
        asked.append((noise.seed, int(torch.as_tensor(noise.draws).flatten()[0])))
        return x + 0.01 * noise.normal(x, step=0)

    trace, attack = Trace(), PGDTEOT(steps=3, eot=2, targets=2, step_size=0.01)
    attack.perturb(Defended(purify, classifier), images, labels, ids, ThreatModel(epsilon=0.03), 0, trace=trace)
    assert len(asked) == len(set(asked)) == 2 + 2 * 4  # the targets one by one, then two runs of three steps and an end
    assert set(trace.looks.values()) == {attack.looks()} == {8}
    assert {point["attack"] for point in trace.curve()} == {"pgd_t_eot"} and not trace.notes
    plain, differentiated = attack.queries()
    assert (plain, differentiated) == (2 + 2 * 2, 2 * 3 * 2)


def test_a_number_in_l1_carries_a_note() -> None:
    classifier, images, labels, ids = problem(3)
    trace, threat = Trace(), ThreatModel(norm="L1", epsilon=0.2)
    for attack in (PGDTEOT(steps=2, eot=1, targets=2), PGDEOT(steps=2, eot=1)):
        attack.perturb(defended(classifier), images, labels, ids, threat, 0, trace=trace)
    assert trace.notes == [WEAK] and WEAK.startswith(WEAK_ATTACK)  # tables mark it
    several, both = (
        Trace(),
        Cascade(members=(("pgd_eot", {"steps": 2, "eot": 1}, None), ("apgd_eot", {"steps": 2}, None))),
    )
    both.perturb(defended(classifier), images, labels, ids, threat, 0, trace=several)
    assert not several.notes  # the other one is not weak


def test_unknown_settings_are_told() -> None:
    with pytest.raises(ValueError, match="Expected loss among margin, ce, dlr, got 'cw'"):
        PGDTEOT(loss="cw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected start among"):
        PGDTEOT(start="clean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected targets > 0"):
        PGDTEOT(targets=0)
