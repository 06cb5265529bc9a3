"""What gates say where they cannot know: few images, no memory, no records; and what they once overlooked."""

from __future__ import annotations

import pytest
import torch
from linear_problem import problem
from torch import Tensor

from bench.attacks.pgd_eot import PGDEOT
from bench.gates import ALWAYS, GATES, Evidence, Gate, Subject, choose_images, run_gates
from bench.gates.askers import agrees_with_cell, robust_above_null
from bench.gates.attackers import on_grid
from bench.gates.chance import at_least, at_most, smallest_loss
from bench.gates.gradient import gradient_audit
from bench.gates.images import is_on_grid
from bench.gates.sanity import inside_ball
from bench.gates.strength import beats_noise
from bench.records import ImageRecord
from bench.threat import ThreatModel, round_towards
from defenses.base import Defended, Purify
from defenses.noise import Noise

PGD = PGDEOT(steps=15, step_size=0.006, eot=1)
THREAT = ThreatModel(epsilon=0.03)


def subject(purify: Purify, evidence: Evidence | None = None, images: int = 32) -> Subject:
    linear, x, labels, ids = problem(images)
    return Subject(
        lambda kind: Defended(purify, linear), x, labels, ids, THREAT, PGD, seed=0, classes=2, evidence=evidence
    )


def records(correct: bool, images: int = 32) -> list[ImageRecord]:
    _, _, labels, ids = problem(images)
    pairs = list(zip(ids.tolist(), labels.tolist(), strict=True))
    return [
        ImageRecord(
            index=i, label=y, clean_votes={y: 1}, robust_votes={y if correct else 1 - y: 1}, null_votes={y: 1},
            distance=0.03,
        )
        for i, y in pairs
    ]  # fmt: skip


def test_a_zero_gradient_fails_the_audit() -> None:
    gate = gradient_audit(subject(lambda x, noise: (x * 4).round() / 4 + 0 * x))
    assert gate.passed is False and "not confirmed" in gate.reason


def test_a_gradient_that_is_honest_on_the_clean_images_alone_fails() -> None:
    clean = problem(32)[1]

    def flipped(x: Tensor, noise: Noise) -> Tensor:
        near = (x.detach()[:, None] - clean).abs().amax((2, 3, 4)).amin(1) < 0.012
        return torch.where(near.view(-1, 1, 1, 1), x, 2 * x.detach() - x)

    gate = gradient_audit(subject(flipped))
    assert gate.passed is False and "at a random start" in gate.reason


def test_rounding_that_breaks_more_fails_too() -> None:
    one = subject(lambda x, noise: torch.where(((x * 255) - (x * 255).round()).abs() > 1e-3, 0.5 + 0 * x, x))
    one.adversarial = problem(32)[1]
    one.correct = torch.ones_like(one.correct)
    one.judged = lambda x: torch.zeros_like(one.correct)  # type: ignore[method-assign]
    gate = inside_ball(one)
    assert gate.passed is False and "breaks" in gate.reason


def test_a_defense_that_looks_at_the_grid_of_numbers() -> None:
    clean = problem(32)[1]

    def restored(x: Tensor, noise: Noise) -> Tensor:
        off = ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(1)
        return torch.where(off.view(-1, 1, 1, 1), clean[: len(x)] + 0 * x, x)

    told = on_grid(subject(restored, Evidence(records=records(True), stochastic=False)))
    assert told.passed is False and "rounded to 1/255" in told.reason
    assert on_grid(subject(lambda x, noise: x, Evidence(records=records(False), stochastic=False))).passed


def test_rounding_towards_an_image_stays_beside_it() -> None:
    clean = torch.tensor([[[[0.5, 0.5, 0.25, 1.0]]]])
    moved = round_towards(clean, torch.tensor([[[[0.61, 0.39, 0.25, 0.8125]]]]), 16)
    assert torch.equal(moved * 16, torch.tensor([[[[9.0, 7.0, 4.0, 13.0]]]]))
    assert is_on_grid(moved, 16) and not is_on_grid(moved + 0.01, 16)


def test_stored_votes_that_no_attack_confirms() -> None:
    gate = agrees_with_cell(subject(lambda x, noise: x, Evidence(records=records(True), stochastic=False)))
    assert gate.passed is False and "stored 100.0%" in gate.reason
    assert agrees_with_cell(subject(lambda x, noise: x, Evidence(records=records(False), stochastic=False))).passed
    assert agrees_with_cell(subject(lambda x, noise: x)).passed is None


def test_attacked_images_must_not_be_easier() -> None:
    better = [
        ImageRecord(index=r.index, label=r.label, clean_votes={9: 1}, robust_votes={r.label: 1}, null_votes={9: 1},
                    distance=0.03)
        for r in records(True)
    ]  # fmt: skip
    assert robust_above_null(subject(lambda x, noise: x, Evidence(records=better))).passed is False
    assert robust_above_null(subject(lambda x, noise: x, Evidence(records=records(True)))).passed


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_no_memory_is_unknown(error: BaseException) -> None:
    def hungry(subject: Subject) -> Gate:
        raise error

    linear, x, labels, ids = problem(4)
    (gate,) = run_gates(
        lambda kind: Defended(lambda x, n: x, linear), x, labels, ids, THREAT, PGD, seed=0, classes=2, gates=[hungry]
    )
    assert gate.passed is None and "Unknown" in gate.reason


def test_the_smallest_loss_is_said() -> None:
    assert smallest_loss(32) == 4 / 32 and smallest_loss(16) == 4 / 16
    assert "12.5% on 32 images" in beats_noise(subject(lambda x, noise: x)).reason


def test_binomial_bounds() -> None:
    assert at_most(12, 16, 0.9) >= 0.05 > at_most(11, 16, 0.9)
    assert at_least(2, 8, 0.1) >= 0.05 > at_least(3, 8, 0.1)


def test_images_are_a_random_sample_and_batches_stay_whole() -> None:
    places = choose_images(500, 32, 0)
    assert places != list(range(32)) and len(set(places)) == 32 and places == choose_images(500, 32, 0)
    assert places != choose_images(500, 32, 1)
    batch = choose_images(128, 32, 3, batch=32)
    assert batch == list(range(batch[0], batch[0] + 32)) and batch[0] % 32 == 0
    assert choose_images(10, 32, 0, batch=64) == list(range(10)) and choose_images(10, 32, 0) == list(range(10))


def test_the_cheap_gates_ask_little() -> None:
    """The cost that the protocol names: under a tenth of a quick cell of 64 images, 20 steps and four draws."""
    linear, x, labels, ids = problem(16)
    asked = 0

    def purify(images: Tensor, noise: Noise) -> Tensor:
        nonlocal asked
        asked += len(images)
        return images + 0.01 * noise.normal(images, step=0)

    attack = PGDEOT(steps=20, step_size=0.006, eot=4, loss="margin")
    known = Evidence(records=records(False, 16))
    run_gates(
        lambda kind: Defended(purify, linear), x, labels, ids, THREAT, attack,
        seed=0, classes=2, evidence=known, gates=ALWAYS,
    )  # fmt: skip
    assert 0 < asked < 0.1 * 64 * 20 * 4 and set(ALWAYS) <= set(GATES)


def test_gates_look_at_the_images_that_the_cells_attack_left() -> None:
    left = problem(32)[1] + 0.01
    whole = subject(lambda x, noise: x, Evidence(adversarial=left))
    assert whole.adversarial is left and torch.equal(whole.part(4).adversarial, left[:4])
    other = whole.on(*problem(8)[1:])
    assert other.adversarial.shape[0] == 8 and not torch.equal(other.adversarial, left[:8])
    assert not torch.equal(subject(lambda x, noise: x).adversarial, left)  # the attack again
