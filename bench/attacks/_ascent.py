"""What attacks with a decaying step share: where they start, and how the step shrinks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from bench.attacks._short import at_most
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended

Start = Literal["clean", "transfer"]
STEP = 0.007 * 255 / 8  # Lee & Kim's step of 0.007 at epsilon 8/255, as a share of epsilon
TRANSFER_STEPS = 100


@dataclass
class MovingMean:
    """What a step along a mean of gradients hands to the next one.

    Attributes:
        x: iterate (batch, channels, height, width).
        mean: of the gradients so far, of the same shape.
    """

    x: Tensor
    mean: Tensor


def first_iterate(
    start: Start, model: Defended, images: Tensor, labels: Tensor, image_ids: Tensor, threat: ThreatModel, seed: int
) -> Tensor:
    """The image itself, or where cross-entropy PGD on the bare classifier ends; the defense is not asked.

    Args:
        start: "clean" or "transfer".
        model: the defended classifier.
        images: as in `Attack.perturb`.
        labels: as in `Attack.perturb`.
        image_ids: as in `Attack.perturb`.
        threat: as in `Attack.perturb`.
        seed: as in `Attack.perturb`.
    """
    if start == "clean":
        return images
    bare = Defended(lambda x, noise: x, model.classifier)
    pgd = PGDEOT(steps=at_most(TRANSFER_STEPS), step_size=STEP * max(threat.epsilon, 1e-9), eot=1)
    return pgd.perturb(bare, images, labels, image_ids, threat, seed).detach()


def check_start(start: str) -> None:
    """Raise ValueError for a start that is none."""
    if start not in get_args(Start):
        raise ValueError(f"Expected start among {', '.join(get_args(Start))}, got {start!r}.")


def decay(step: int, steps: int) -> float:
    """Share of the first step's length: half a period of a cosine, 1 at step 0 and towards 0 at `steps`."""
    return (1 + math.cos(math.pi * step / steps)) / 2
