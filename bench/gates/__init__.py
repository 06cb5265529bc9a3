"""Validity gates: is a cell's robust accuracy the defense's, or the attack's weakness?

Each gate is a function of a `Subject`; `run_gates` runs them all. A gate that fails changes no number: it is stored
beside it, and the report shows it as a badge with the reason in words.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bench.attacks.base import Attack
from bench.gates.base import Gate, Subject
from bench.gates.gradient import eot_signal, gradient_audit, gradient_nonzero, gradient_scale
from bench.gates.sanity import batch_independence, inside_ball, not_identity, repeatable
from bench.gates.strength import (
    beats_exact,
    beats_guidance_detached,
    beats_noise,
    beats_square,
    beats_straight_through,
    beats_surrogate,
    beats_transfer,
    epsilon_sweep,
    more_eot,
    more_steps,
)
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient

__all__ = ["GATES", "SUBSET", "Gate", "Subject", "run_gates"]

SUBSET = 32
GATES: tuple[Callable[[Subject], Gate], ...] = (
    repeatable,
    batch_independence,
    not_identity,
    gradient_audit,
    gradient_nonzero,
    gradient_scale,
    eot_signal,
    inside_ball,
    beats_noise,
    beats_transfer,
    beats_straight_through,
    beats_surrogate,
    beats_guidance_detached,
    beats_exact,
    beats_square,
    more_steps,
    more_eot,
    epsilon_sweep,
)


def run_gates(
    build: Callable[[Gradient], Defended],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    threat: ThreatModel,
    attack: Attack,
    *,
    seed: int,
    classes: int,
    subset: int = SUBSET,
) -> list[Gate]:
    """All gates of one cell on its first `subset` images.

    The cost is that of about a dozen attacks on the subset, two of them with doubled steps or draws. A gate whose check
    raises ValueError or RuntimeError has failed, with the message as its reason.

    Args:
        build: makes the defense for a kind of gradient; ValueError where it has none of that kind.
        images: (batch, channels, height, width) in [0, 1], the cell's.
        labels: (batch,) integers.
        image_ids: (batch,) integers, places in the data set.
        threat: the cell's.
        attack: the one that the gates vary.
        seed: of the gates' own draws.
        classes: of the data set, for the level of chance.
        subset: number of images.
    """
    subject = Subject(
        build, images[:subset], labels[:subset], image_ids[:subset], threat, attack, seed=seed, classes=classes
    )
    return [_run(gate, subject) for gate in GATES]


def _run(gate: Callable[[Subject], Gate], subject: Subject) -> Gate:
    try:
        return gate(subject)
    except (ValueError, RuntimeError) as error:
        return Gate(gate.__name__, False, None, f"The check could not be made: {error}")
