"""Images that gates hand over, and the grid of numbers that pictures lie on."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from bench.attacks._short import at_most as cut_to
from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Attack
from bench.attacks.losses import Loss
from bench.attacks.pgd_eot import PGDEOT
from bench.gates.base import Subject
from bench.threat import ThreatModel
from defenses.base import Defended

TRANSFER_STEPS = 40
LEVELS = (16, 255)  # grids that pictures lie on, coarse ones first


@torch.enable_grad()
def transferred(subject: Subject) -> Tensor:
    """Images of a margin-loss PGD on the cell's bare classifier, made once."""
    if "transferred" not in subject.kept:
        bare = Defended(lambda x, noise: x, subject.evidence.classifier or subject.model.classifier)
        steps = cut_to(TRANSFER_STEPS)
        subject.kept["transferred"] = subject.attacked(
            climber(subject.threat, steps, select="best"), model=bare, threat=replace(subject.threat, gradient="exact")
        )
    return subject.kept["transferred"]


def climber(
    threat: ThreatModel, steps: int, *, eot: int = 1, loss: Loss = "margin", select: Literal["last", "best"] = "last"
) -> Attack:
    """PGD+EOT with steps of an eighth of the radius; in L1 APGD+EOT, as PGD is weak there.

    Args:
        threat: the ball.
        steps: at least 1.
        eot: draws a step.
        loss: a name of `LOSSES`.
        select: which iterate PGD returns.
    """
    if threat.norm == "L1":
        return APGDEOT(steps=steps, eot=eot, loss=loss)
    return PGDEOT(steps=steps, step_size=max(threat.epsilon, 1e-9) / 8, eot=eot, loss=loss, select=select)


def is_on_grid(x: Tensor, levels: int) -> bool:
    """Whether all pixels are multiples of 1 / levels, but for the rounding of float32."""
    return bool(((x * levels - (x * levels).round()).abs() <= 1e-4 * levels).all())
