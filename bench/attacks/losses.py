"""Losses that attacks maximise: (batch, classes) logits and (batch,) labels -> (batch,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["ce", "margin", "dlr"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax of the true class."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus the true one (Carlini & Wagner, S&P 2017); positive when misclassified."""
    true = logits.gather(1, labels.unsqueeze(1))
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return (others.amax(1, keepdim=True) - true).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein, ICML 2020, Eq. 6); needs at least three classes."""
    if logits.shape[1] < 3:
        raise ValueError(f"Expected at least 3 classes for the DLR loss, got {logits.shape[1]}. Use ce or margin.")
    top = logits.sort(dim=1).values
    return margin(logits, labels) / (top[:, -1] - top[:, -3] + 1e-12)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the true one; (batch,) each."""
    true, aim = (logits.gather(1, classes.unsqueeze(1)).squeeze(1) for classes in (labels, targets))
    return aim - true


def targeted_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """log softmax of the target; the labels play no part."""
    return -cross_entropy(logits, targets)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce & Hein, ICML 2020, Eq. 7); needs at least four classes."""
    if logits.shape[1] < 4:
        raise ValueError(
            f"Expected at least 4 classes for the targeted DLR loss, got {logits.shape[1]}. Use loss='margin'."
        )
    top = logits.sort(dim=1).values
    return targeted_margin(logits, labels, targets) / (top[:, -1] - (top[:, -3] + top[:, -4]) / 2 + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
