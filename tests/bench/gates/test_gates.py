"""Gates: planted masked defenses are flagged, honest ones are not, and each gate says why in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from linear_problem import problem
from torch import Tensor, nn

from bench.attacks import Attack
from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Oracle
from bench.attacks.cascade import Cascade
from bench.attacks.clean import Clean
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.square_eot import SquareEOT
from bench.gates import GATES, Gate, Subject, run_gates
from bench.gates.base import scaled
from bench.gates.gradient import eot_signal
from bench.gates.sanity import inside_ball
from bench.gates.strength import more_eot, more_steps
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient, Purify
from defenses.noise import Noise

PGD = PGDEOT(steps=15, step_size=0.006, eot=4)
THREAT = ThreatModel(epsilon=0.03)


def gates(
    purify: Purify, classifier: nn.Module | None = None, *, attack: Attack = PGD, threat: ThreatModel = THREAT, **more
) -> dict[str, Gate]:
    """All gates, by name, of a purifier in front of the linear classifier (or another) on 32 images."""
    linear, images, labels, ids = problem(32)
    classifier = classifier or linear

    def build(kind: Gradient) -> Defended:
        if kind == "surrogate":
            raise ValueError("no surrogate")
        return Defended(purify, classifier, gradient=kind, **more)

    found = run_gates(build, images, labels, ids, threat, attack, seed=0, classes=2)
    assert [g.name for g in found] == [g.__name__ for g in GATES] and all(g.reason for g in found)
    assert all(set(g.row()) == {"gate", "passed", "value", "reason"} for g in found)
    return {g.name: g for g in found}


def subject(purify: Purify, attack: Attack = PGD) -> Subject:
    """32 images behind a purifier, for single gates."""
    linear, images, labels, ids = problem(32)
    return Subject(lambda kind: Defended(purify, linear), images, labels, ids, THREAT, attack, seed=0, classes=2)


def failed(found: dict[str, Gate]) -> set[str]:
    return {name for name, gate in found.items() if gate.passed is False}


def gaussian(x: Tensor, noise: Noise) -> Tensor:
    return x + 0.1 * noise.normal(x, step=0)


def mlp() -> nn.Module:
    """A small network that learned the linear problem, with a third output for losses that need three."""
    _, images, labels, _ = problem(400, seed=3)
    linear, *_ = problem(1)
    labels = (linear.value(images) > 0).long()
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.requires_grad_(False)


@pytest.mark.parametrize(
    ("purify", "network", "loss"),
    [
        (gaussian, lambda: None, "margin"),
        (gaussian, mlp, "ce"),
        (lambda x, noise: x, lambda: None, "ce"),
        (lambda x, noise: x, mlp, "margin"),
    ],
    ids=["gaussian-linear", "gaussian-mlp", "bare-linear", "bare-mlp"],
)
def test_honest_defenses_pass(purify: Purify, network: Callable[[], nn.Module | None], loss: str) -> None:
    found = gates(purify, network(), attack=PGDEOT(steps=15, step_size=0.006, eot=4, loss=loss))
    assert failed(found) == set()
    assert found["gradient_audit"].passed and found["epsilon_sweep"].passed and found["gradient_scale"].passed
    assert found["beats_surrogate"].passed is None and "no surrogate" in found["beats_surrogate"].reason


L1 = ThreatModel(norm="L1", epsilon=0.15)


def test_an_honest_defense_passes_in_l1() -> None:
    found = gates(gaussian, mlp(), attack=APGDEOT(steps=20, eot=4, loss="margin"), threat=L1)
    assert failed(found) == set() and found["gradient_audit"].passed and found["epsilon_sweep"].passed
    assert found["beats_square"].passed is None and "no squares for L1" in found["beats_square"].reason
    assert found["plateau"].passed and found["margin_transfer"].passed and found["on_grid"].passed


def test_a_weak_attack_and_a_masked_gradient_are_told_in_l1() -> None:
    """PGD that barely moves is beaten by a transfer of APGD; a rounded defense by the straight-through gradient."""
    short = gates(lambda x, noise: x, attack=PGDEOT(steps=2, step_size=0.001, eot=1), threat=L1, stochastic=False)
    assert {"margin_transfer", "step_reaches", "more_steps"} & failed(short) >= {"margin_transfer", "step_reaches"}
    masked = gates(vanishing, attack=APGDEOT(steps=10, eot=1), threat=L1, stochastic=False)
    assert {"margin_transfer", "beats_transfer", "gradient_nonzero", "gradient_audit"} & failed(masked)


def rounded(x: Tensor, noise: Noise) -> Tensor:
    return (x * 8).round() / 8


def disguised(x: Tensor, noise: Noise) -> Tensor:
    return x + (rounded(x, noise) - x).detach()


def shattered(x: Tensor, noise: Noise) -> Tensor:
    return x + 0.02 * torch.sin(2000 * x)


def vanishing(x: Tensor, noise: Noise) -> Tensor:
    return torch.sigmoid(3000 * (x - 0.5))


def holds_the_ends(x: Tensor, noise: Noise) -> Tensor:
    """torch.clamp(x, 0, 1) from torch 2.14 on."""
    return torch.where((x > 0) & (x < 1), x, x.detach())


def negligible(x: Tensor, noise: Noise) -> Tensor:
    return 1e-4 * x + (1 - 1e-4) * x.detach()


def hidden(x: Tensor, noise: Noise) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def coupled(x: Tensor, noise: Noise) -> Tensor:
    return x - 0.5 * (x.mean(0, keepdim=True) - 0.5)


def returns_its_input(x: Tensor, noise: Noise) -> Tensor:
    return x + 1e-4 * noise.normal(x, step=0)


def no_graph(x: Tensor, noise: Noise) -> Tensor:
    return x.detach()


@pytest.mark.parametrize(
    ("purify", "flags"),
    [
        (rounded, {"gradient_nonzero", "gradient_scale"}),
        (disguised, {"gradient_audit"}),
        (shattered, {"beats_straight_through", "beats_transfer", "beats_square"}),
        (vanishing, {"gradient_nonzero", "gradient_scale"}),
        (holds_the_ends, {"gradient_nonzero"}),
        (negligible, {"gradient_audit", "gradient_scale"}),
        (hidden, {"repeatable"}),
        (coupled, {"batch_independence"}),
        (returns_its_input, {"not_identity"}),
        (no_graph, {"gradient_audit", "gradient_nonzero", "more_steps"}),
    ],
)
def test_planted_masks_are_flagged(purify: Purify, flags: set[str]) -> None:
    assert flags <= failed(gates(purify))


def test_an_attack_that_gets_nowhere_is_beaten() -> None:
    found = gates(lambda x, noise: x, attack=PGDEOT(steps=1, step_size=1e-4, eot=1, start="zero"))
    assert {"beats_square", "epsilon_sweep"} <= failed(found)
    assert "Square" in found["beats_square"].reason and "above chance" in found["epsilon_sweep"].reason


def test_too_few_steps_and_draws_show() -> None:
    found = gates(lambda x, noise: x, attack=PGDEOT(steps=6, step_size=0.002, eot=1, start="zero"))
    assert found["more_steps"].passed is False and found["more_eot"].passed


def test_a_gate_that_breaks_has_failed() -> None:
    """An exact gradient that is NaN says nothing for the straight-through number; a missing kind is another thing."""

    def broken(x: Tensor, noise: Noise) -> Tensor:
        return x + 0 * (x - x).sqrt()  # the derivative of the root at 0, times 0

    found = gates(broken, threat=ThreatModel(epsilon=0.03, gradient="straight_through"))
    assert found["beats_exact"].passed is False and "NaN" in found["beats_exact"].reason
    assert found["beats_surrogate"].passed is None


def test_signal_to_noise_falls_with_the_draws() -> None:
    """With CE the gradient of a noisy linear classifier changes from draw to draw."""
    values = [eot_signal(subject(gaussian, PGDEOT(steps=1, eot=eot))).value for eot in (1, 4, 64)]
    assert values[0] < values[1] < values[2] <= 1
    assert eot_signal(subject(lambda x, noise: x, PGD)).value is None


def test_a_detached_gradient_is_called_what_it_is() -> None:
    found = gates(disguised, threat=ThreatModel(epsilon=0.03, gradient="straight_through"))
    assert found["gradient_audit"].passed is None and "not the derivative" in found["gradient_audit"].reason
    assert found["beats_straight_through"].passed is None


def test_gradient_free_attacks_skip_the_gradient_gates() -> None:
    found = gates(gaussian, attack=SquareEOT(steps=30, eot=4), threat=ThreatModel(epsilon=0.03, gradient="none"))
    assert all(found[n].passed is None for n in ("gradient_audit", "gradient_nonzero", "gradient_scale", "eot_signal"))
    assert found["beats_square"].passed is None and found["more_steps"].passed is not None


def test_a_declared_coupling_is_audited_as_one_batch() -> None:
    found = gates(coupled, batch_coupled=True)
    assert found["batch_independence"].passed is None and found["gradient_audit"].passed and not failed(found)


def test_images_that_leave_the_ball_or_need_more_than_8_bits() -> None:
    _, images, labels, ids = problem(32)
    images = (images * 255).round() / 255
    far = subject(lambda x, noise: x)
    far.adversarial = (images + 0.035).clamp(0, 1)
    assert inside_ball(far).passed is False and inside_ball(far).value > 0.9
    fine = ThreatModel(epsilon=1e-3)

    class Fragile(nn.Module):
        """Wrong as soon as a pixel is off the 8-bit grid."""

        def forward(self, x: Tensor) -> Tensor:
            moved = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1)
            return torch.stack((torch.zeros_like(moved), 1 - 100 * moved), 1)

    ones = torch.ones_like(labels)
    fragile = Subject(lambda kind: Defended(lambda x, n: x, Fragile()), images, ones, ids, fine, PGD, seed=0, classes=2)
    fragile.adversarial = (images + 9e-4).clamp(0, 1)
    gate = inside_ball(fragile)
    assert gate.passed is False and "undoes" in gate.reason


def test_scaling_reaches_members() -> None:
    assert scaled(PGD, ("steps", "eot"), 2) == PGDEOT(steps=30, step_size=0.006, eot=8)
    gold = scaled(Gold(steps=5, apgd_steps=3), ("steps", "apgd_steps"), 2)
    assert gold == Gold(steps=10, apgd_steps=6)
    cascade = scaled(Cascade(members=(("clean", {}, None), ("pgd_eot", {"steps": 3}, "transfer"))), ("steps",), 2)
    assert isinstance(cascade, Cascade) and cascade.made()[1] == PGDEOT(steps=6) and cascade.members[1][2] == "transfer"
    still = subject(gaussian, Clean())
    assert more_steps(still).passed is None and more_eot(still).passed is None


def test_gates_draw_nothing_that_attack_or_judge_draws() -> None:
    own = subject(gaussian)
    roles = ("selection", "selection:cascade", "judge:clean", "judge:robust", "judge:null")
    used = {Oracle(own.model, own.labels, own.image_ids, 0, role=role).seed for role in roles}
    assert not used & {own.oracle(1, "ce").seed, own.noise().seed, own.noise("audit").seed}
