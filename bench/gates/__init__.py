"""Validity gates: is a cell's robust accuracy the defense's, or the attack's weakness, or a trick?

Each gate is a function of a `Subject`; `run_gates` runs them. A gate that fails changes no number: it is stored
beside it, and the report shows it as a badge with the reason in words. `ALWAYS` are cheap enough for every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.attacks.base import Attack
from bench.gates.askers import agrees_with_cell, outsider, remembers, robust_above_null, unseen
from bench.gates.attackers import (
    margin_transfer,
    on_grid,
    plateau,
    saturated_loss,
    step_reaches,
    towards_others,
    undeclared_gradient,
)
from bench.gates.base import Build, Evidence, Gate, Subject
from bench.gates.gradient import eot_signal, gradient_audit, gradient_nonzero, gradient_scale
from bench.gates.precision import precision_cosine
from bench.gates.sanity import batch_independence, draws_agree, inside_ball, not_identity, repeatable
from bench.gates.strength import (
    beats_exact,
    beats_guidance_detached,
    beats_noise,
    beats_square,
    beats_straight_through,
    beats_surrogate,
    beats_transfer,
    epsilon_sweep,
    known_noise,
    more_eot,
    more_steps,
)
from bench.threat import ThreatModel
from defenses.memory import is_out_of_memory
from defenses.noise import role_seed

__all__ = ["ALWAYS", "GATES", "SUBSET", "Evidence", "Gate", "Subject", "choose_images", "run_gates"]

Check = Callable[[Subject], Gate]

SUBSET = 32
ALWAYS: tuple[Check, ...] = (
    unseen,
    gradient_nonzero,
    gradient_audit,
    precision_cosine,
    known_noise,
    draws_agree,
    robust_above_null,
    step_reaches,
    margin_transfer,
    on_grid,
    outsider,
    saturated_loss,
    undeclared_gradient,
    plateau,
    towards_others,
)
"""Those that every cell gets, in a cheap form: fewer draws, gradients of few images."""
GATES: tuple[Check, ...] = (
    unseen,  # first: nobody has shown the defense a clean image of these
    repeatable,
    batch_independence,
    draws_agree,
    not_identity,
    gradient_audit,
    gradient_nonzero,
    gradient_scale,
    eot_signal,
    precision_cosine,
    known_noise,
    robust_above_null,
    step_reaches,
    inside_ball,
    remembers,
    beats_noise,
    margin_transfer,
    on_grid,
    outsider,
    beats_transfer,
    beats_straight_through,
    beats_surrogate,
    beats_guidance_detached,
    beats_exact,
    undeclared_gradient,
    saturated_loss,
    beats_square,
    plateau,
    towards_others,
    more_steps,
    more_eot,
    epsilon_sweep,
    agrees_with_cell,  # last: it compares all of them with the cell
)


def run_gates(
    build: Build,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    threat: ThreatModel,
    attack: Attack,
    *,
    seed: int,
    classes: int,
    evidence: Evidence | None = None,
    gates: Sequence[Check] = GATES,
    count: Callable[[], int] | None = None,
) -> list[Gate]:
    """Gates of one cell on some of its images, see `choose_images`.

    What they cost: `bench.gates.costs`. A gate whose check raises ValueError or RuntimeError has failed, with the
    message as its reason; one that ran out of memory is unknown.

    Args:
        build: makes the defense for a kind of gradient; ValueError where it has none of that kind.
        images: (batch, channels, height, width) in [0, 1], the gates'.
        labels: (batch,) integers.
        image_ids: (batch,) integers, places in the data set.
        threat: the cell's.
        attack: the one that the gates vary.
        seed: of the gates' own draws.
        classes: of the data set, for the level of chance.
        evidence: what else is known of the cell, its stored records above all.
        gates: which to run, in this order.
        count: network evaluations since it was last called.

    Returns:
        One answer a gate, in the order of `gates`.
    """
    subject = Subject(
        build,
        images,
        labels,
        image_ids,
        threat,
        attack,
        seed=seed,
        classes=classes,
        evidence=evidence,
        cheap=gates is ALWAYS,
    )
    found = []
    for gate in gates:
        answer = _run(gate, subject)
        found.append(replace(answer, evaluations=count()) if count else answer)
    return found


def choose_images(total: int, count: int, seed: int, *, batch: int | None = None) -> list[int]:
    """Places among a cell's images that its gates look at: a random sample that no defense can guess from their order.

    Args:
        total: images of the cell.
        count: images of the gates.
        seed: of the cell.
        batch: images a batch where answers depend on it; then one whole batch, drawn at random.
    """
    generator = torch.Generator().manual_seed(role_seed(seed, "gates: images") % 2**63)
    if batch is not None:
        starts = range(0, max(total - batch, 0) + 1, batch)
        first = starts[int(torch.randint(len(starts), (1,), generator=generator))]
        return list(range(first, min(first + batch, total)))
    return sorted(torch.randperm(total, generator=generator)[:count].tolist())


def _run(gate: Check, subject: Subject) -> Gate:
    try:
        return gate(subject)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            return Gate(gate.__name__, None, None, f"Unknown: the check ran out of memory ({_first(error)}).")
        if isinstance(error, OSError):
            raise
        return Gate(gate.__name__, False, None, f"The check could not be made: {error}")


def _first(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
