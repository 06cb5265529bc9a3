"""Images that gates hand over, and the grid of numbers that pictures lie on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.attacks._short import at_most as cut_to
from bench.attacks.pgd_eot import PGDEOT
from bench.gates.base import Subject
from defenses.base import Defended

TRANSFER_STEPS = 40
LEVELS = (16, 255)  # grids that pictures lie on, coarse ones first


@torch.enable_grad()
def transferred(subject: Subject) -> Tensor:
    """Images of a margin-loss PGD on the cell's bare classifier, made once."""
    if "transferred" not in subject.kept:
        bare = Defended(lambda x, noise: x, subject.evidence.classifier or subject.model.classifier)
        steps = cut_to(TRANSFER_STEPS)
        pgd = PGDEOT(steps=steps, step_size=max(subject.threat.epsilon, 1e-9) / 8, eot=1, loss="margin", select="best")
        subject.kept["transferred"] = subject.attacked(
            pgd, model=bare, threat=replace(subject.threat, gradient="exact")
        )
    return subject.kept["transferred"]


def is_on_grid(x: Tensor, levels: int) -> bool:
    """Whether all pixels are multiples of 1 / levels, but for the rounding of float32."""
    return bool(((x * levels - (x * levels).round()).abs() <= 1e-4 * levels).all())
