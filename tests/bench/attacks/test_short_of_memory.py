"""Networks that run out of memory above a few rows: every attack ends, with the images that it finds otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import Attack, Trace, attacks
from bench.evaluate import evaluate
from bench.gates import Evidence, run_gates
from bench.gates.gradient import gradient_audit, gradient_nonzero, gradient_scale
from bench.gates.sanity import batch_independence, not_identity, repeatable
from bench.threat import ThreatModel
from defenses.attacked import AttackedDefense
from defenses.base import Defended, Defense, Gradient
from defenses.compat import import_autoattack
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.compiled import Compiling, compile_score
from defenses.models.score_models import NetworkScore

SMALL = {
    **{"steps": 2, "apgd_steps": 2, "eot": 2, "restarts": 1, "defense_replicates": 4, "check_draws": 3},
    **{"samples": 2, "first": 1, "longest": 4},
}
SETTINGS = {"cascade": {"members": (("noise", {}, None), ("pgd_eot", {"steps": 2, "eot": 2}, None))}}
GRADIENT: dict[str, Gradient] = {"bpda_eot": "straight_through"}
ROWS, IMAGES = 3, 7
OFTEN = ("autoattack_rand", "bpda_eot", "diffhammer", "momentum_pgd", "nes_eot")  # the others in the slow suite
THREAT = ThreatModel(epsilon=0.1)


@pytest.fixture(autouse=True)
def _short_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = import_autoattack().AutoAttack
    full = library._set_version

    def short(self: Any, version: str) -> None:
        full(self, version)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.apgd.eot_iter = 2
        self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 2
        self.square.n_queries = 5

    monkeypatch.setattr(library, "_set_version", short)


class Limited(nn.Module):
    """A smooth network in float64, so that no rounding turns a sign; out of memory above `most` rows."""

    feature_layers = ("first",)

    def __init__(self, most: int, out: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.most, self.out, self.lacked = most, out, 0
        self.first = nn.Identity()

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        if len(x) > self.most:
            self.lacked += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.out(self.first(x).double()).to(x)


def networks(most: int) -> tuple[Limited, NetworkScore]:
    g = torch.Generator().manual_seed(0)
    first, last = torch.randn(24, 64, generator=g).double() / 7, torch.randn(10, 24, generator=g).double()
    classifier = Limited(most, lambda x: torch.tanh((x.flatten(1) - 0.5) @ first.T) @ last.T)
    return classifier, NetworkScore(Limited(most, lambda x: 0.3 * torch.tanh(x)), (1, 8, 8))


def problem() -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(IMAGES, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        labels = networks(99)[0](images).argmax(1)
    return images, labels, torch.arange(IMAGES)


def make(name: str) -> Attack:
    known = {field.name for field in dataclasses.fields(attacks[name])}
    return attacks.make(name, {**{k: v for k, v in SMALL.items() if k in known}, **SETTINGS.get(name, {})})


def names(*but: str) -> list[Any]:
    some = sorted(set(attacks) - set(but))
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in some]


def attacked(name: str, defense: Defense, most: int) -> tuple[Tensor, Trace, int]:
    classifier, score = networks(most)
    model = defense.defend(classifier, score, gradient=GRADIENT.get(name, "exact"))
    threat, trace = dataclasses.replace(THREAT, gradient=GRADIENT.get(name, "exact")), Trace()
    images, labels, ids = problem()
    images = images.float() if "autoattack" in name else images  # the library mixes its own float32 with them
    found = make(name).perturb(model, images, labels, ids, threat, seed=3, trace=trace)
    return found, trace, classifier.lacked + score.network.lacked


@pytest.mark.parametrize("name", names())
def test_every_attack_finds_the_same_images(name: str) -> None:
    defense = DiffPureSDE(t=0.01, steps=2)
    whole, seen, _ = attacked(name, defense, 10**6)
    short, seen_short, lacked = attacked(name, defense, ROWS)
    assert torch.allclose(short, whole, atol=1e-6)
    assert seen_short.survived == seen.survived and seen_short.looks == seen.looks
    assert lacked or name in ("clean", "noise")


@pytest.mark.parametrize("name", names())
def test_every_attack_ends_where_a_batch_stays_whole(name: str) -> None:
    defense = Contrastive(t=0.01, steps=2, guidance_scale=5.0)
    whole, short = (attacked(name, defense, most)[0] for most in (10**6, ROWS))
    assert torch.allclose(short, whole, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_batch_that_stays_whole_is_cut_in_the_networks_of_the_attack_too(compiled: bool) -> None:
    """Those in low precision or compiled, which no answer without a gradient meets."""
    torch._dynamo.reset()
    defense, found = Contrastive(t=0.01, steps=2, guidance_scale=5.0), []
    for most in (10**6, ROWS):
        (classifier, score), (_, low) = networks(10**6), networks(most)
        if compiled:
            low = compile_score(low, Compiling("eager"))
        real, other = (defense.defend(classifier, each, gradient="exact") for each in (score, low))
        model = AttackedDefense(real, other, "float32")
        images, labels, ids = problem()
        found.append(make("momentum_pgd").perturb(model, images, labels, ids, THREAT, seed=3))
        assert (model.rows_at_once.inner is None) == (most > IMAGES)
    assert torch.allclose(*found, atol=1e-6)


def test_the_judge_and_the_gates_end() -> None:
    given, votes, gates = problem(), [], []
    for most in (10**6, ROWS):
        classifier, score = networks(most)

        def build(kind: Gradient, parts: tuple[Limited, NetworkScore] = (classifier, score)) -> Defended:
            return DiffPureSDE(t=0.01, steps=2).defend(*parts, gradient=kind)

        records = evaluate(build("exact"), make("pgd_eot"), *given, THREAT, draws=4, seed=0)
        votes.append([(r.clean_votes, r.robust_votes, r.null_votes) for r in records])
        few = (repeatable, batch_independence, not_identity, gradient_audit, gradient_scale, gradient_nonzero)
        evidence = Evidence(records=records, adversarial=given[0])  # stored: no attack of the gates lacks first
        found = run_gates(build, *given, THREAT, make("pgd_eot"), seed=0, classes=10, evidence=evidence, gates=few)
        gates.append([(gate.name, gate.passed) for gate in found])
    assert votes[0] == votes[1] and gates[0] == gates[1] and all(passed for _, passed in gates[1])
