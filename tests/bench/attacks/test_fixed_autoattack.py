"""Fixed-AutoAttack's rule on recorded draws, and the library's attacks under it."""

from __future__ import annotations

import pytest
import torch
from golden import load
from golden_attacks import Toy

from bench.attacks._library import run_library
from bench.attacks._short import cut_short
from bench.attacks.base import Trace
from bench.attacks.fixed_autoattack import MEMBERS, FixedAutoAttack, Flags
from bench.threat import ThreatModel
from defenses.base import Defended

G, RECORD = load("fixed_autoattack")
TOY = {name: part.float() if part.is_floating_point() else part for name, part in load("mefa")[0].items()}
THREAT = ThreatModel(epsilon=8 / 255)


def test_the_rule_is_the_released_one() -> None:
    shares = G["correct"].double().mean(1)
    flags = Flags(shares[0])
    for number in range(1, len(shares)):
        rows = flags.left()
        attacked = torch.zeros(shares.shape[1], dtype=torch.bool)
        attacked[rows] = True
        assert torch.equal(attacked, G["attacked"][number - 1].bool())
        flags.offer(rows, shares[number][rows], number)
        torch.testing.assert_close(flags.share, G["flags"][number], rtol=0, atol=1e-6)
        assert abs(float(flags.share.mean() - G["robust_accuracy"][number])) < 1e-6
    assert torch.equal(flags.chosen, G["chosen"])


@pytest.mark.parametrize("variant", ["rand", "standard"])
def test_what_it_returns_has_the_flags_that_it_tells(variant: str) -> None:
    model = Defended(lambda x, noise: x + 0.05 * noise.normal(x, step=0), Toy(TOY))
    trace, ids = Trace(), torch.arange(3)
    attack = FixedAutoAttack(variant=variant, evaluations=5)  # type: ignore[arg-type]
    with cut_short(3):
        x = attack.perturb(model, TOY["x01"], TOY["labels"], ids, THREAT, 0, trace=trace)
    assert float((x - TOY["x01"]).abs().max()) <= THREAT.epsilon + 1e-6
    (told,) = (note for note in trace.notes if "own number" in note)
    assert "biased low" in told and "of 3 images" in told
    assert max(trace.looks.values()) <= attack.looks()
    assert len(MEMBERS[attack.variant]) in (2, 4)


def test_a_deterministic_defense_gets_the_librarys_verdict() -> None:
    """With one answer a flag is 0 or 1, and the rule is AutoAttack's own."""
    model, images, ids = Defended(lambda x, noise: x, Toy(TOY)), TOY["x01"], torch.arange(3)
    with cut_short(3):
        ours = FixedAutoAttack(evaluations=1).perturb(model, images, TOY["labels"], ids, THREAT, 0)
        theirs = run_library("rand", model, images, TOY["labels"], ids, THREAT, 0, None)
    right = [model(x).argmax(1) == TOY["labels"] for x in (ours, theirs)]
    assert torch.equal(*right)
