"""A gate on the arithmetic of an attack that computes in low precision."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks.base import Oracle
from bench.attacks.losses import LOSSES
from bench.gates.base import Gate, Subject
from bench.gates.gradient import NOT_USED
from defenses.base import Defended, Gradient
from defenses.precision import arithmetic

FAR_CLOSER = 0.1  # of the distance between the gradients of two draws: what rounding may take of it
NOTHING_MOVES = 0.01  # a distance (1 - cosine) that no attack would notice, where two draws hardly differ
WITHOUT: frozenset[Gradient] = frozenset({"transfer", "none"})  # kinds that differentiate no score network


def precision_cosine(subject: Subject) -> Gate:
    """The low-precision gradient against float32's on the same draw, beside float32's on two draws.

    At a random start; distances are 1 - cosine, medians over the images. An attack bears the distance between draws, so
    rounding that stays a tenth of it costs no strength. Cost for each image: three gradients.
    """
    name, attacked = "precision_cosine", subject.evidence.attacked
    if attacked is None:
        return Gate(name, None, None, "The attack computes in float32.")
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
    kinds = [kind for kind in (subject.threat.gradient, *sorted(subject.evidence.tried)) if kind not in WITHOUT]
    kind = kinds[0] if kinds else subject.threat.gradient
    few = subject if subject.model.batch_coupled else subject.part(subject.probe)
    low, x = attacked(kind), few.start()

    def gradient(model: Defended, draw: int) -> Tensor:
        oracle = Oracle(model, few.labels, few.image_ids, few.seed, loss=LOSSES[few.loss])
        found = oracle.gradient(x, draw).gradient
        assert found is not None
        return found.flatten(1)

    real = subject.build(kind)
    first, second = gradient(real, 0), gradient(real, 1)
    with arithmetic(low.attack_precision):
        rounded = gradient(low, 0)
    apart, draws = 1 - _cosines(rounded, first), 1 - _cosines(second, first)
    if not len(apart):
        return Gate(name, None, None, "Every gradient is zero: there is nothing to compare.")
    value, usual = 1 - float(apart.median()), float(draws.median())
    signs = float((rounded.sign() == first.sign()).double().mean())
    words = (
        f"The {low.attack_precision} gradient has a cosine of {value:.4f} with float32's on the same draw "
        f"({signs:.1%} of the signs), two draws one of {1 - usual:.4f}"
    )
    if 1 - value <= max(FAR_CLOSER * usual, NOTHING_MOVES):
        return Gate(name, True, value, f"{words}.")
    return Gate(name, False, value, f"{words}: too far from it to be as strong. Attack in float32.")


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of the rows, without those where b is zero; a row of a that is zero there has none in common."""
    some = b.abs().amax(1) > 0
    return torch.nn.functional.cosine_similarity(a[some].double(), b[some].double(), dim=1, eps=1e-30)
