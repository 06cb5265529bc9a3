"""The gate on an attack in low precision: red where rounding is not far smaller than the noise between draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linear_problem import problem
from torch import Tensor

from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.square_eot import SquareEOT
from bench.gates import Evidence, Subject
from bench.gates.precision import precision_cosine
from bench.threat import ThreatModel
from defenses.attacked import AttackedDefense
from defenses.base import Defended, Gradient
from defenses.noise import Noise


def subject(error: float, *, noise: float = 1.0, **changes: Any) -> Subject:
    """A purifier whose gradient is that of x plus noise that changes with the draw; `error` more in low precision."""
    linear, images, labels, ids = problem(8)

    def purifier(wrong: float) -> Any:
        fixed = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))

        def purify(x: Tensor, draw: Noise) -> Tensor:
            return x * (1 + noise * draw.normal(x, step=0) + wrong * fixed)

        return purify

    def attacked(kind: Gradient) -> Defended:
        return AttackedDefense(Defended(purifier(0.0), linear), Defended(purifier(error), linear), "bfloat16")

    fields = {"seed": 0, "classes": 2, "evidence": Evidence(attacked=attacked)} | changes
    threat = ThreatModel(epsilon=0.03)
    attack = fields.pop("attack", PGDEOT(steps=2, eot=1))
    return Subject(lambda kind: Defended(purifier(0.0), linear), images, labels, ids, threat, attack, **fields)


def test_rounding_far_below_the_noise_passes_and_both_cosines_are_told() -> None:
    gate = precision_cosine(subject(0.05))
    assert gate.passed and gate.value is not None and gate.value > 0.99 and "two draws one of" in gate.reason


@pytest.mark.parametrize(("error", "noise"), [(2.0, 1.0), (0.5, 0.0)])
def test_a_gradient_that_is_another_one_is_red(error: float, noise: float) -> None:
    gate = precision_cosine(subject(error, noise=noise))
    assert gate.passed is False and "Attack in float32" in gate.reason


def test_draws_that_agree_allow_the_rounding_that_no_attack_notices() -> None:
    assert precision_cosine(subject(0.05, noise=0.0)).passed
    assert precision_cosine(subject(0.0, noise=0.0)).passed


def test_it_does_not_apply_in_float32_or_without_a_gradient() -> None:
    gate = precision_cosine(subject(2.0, evidence=Evidence()))
    assert gate.passed is None and gate.reason == "The attack computes in float32."
    assert precision_cosine(subject(2.0, attack=SquareEOT())).passed is None
