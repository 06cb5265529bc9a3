"""Planted purifiers that are piecewise constant, or nearly: a gradient leads nowhere, a search does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from planted.adaptive import Adaptive, Victim, ascend, searched, through
from planted.lab import PLATEAU, nearest, pictures, planted, straight
from torch import Tensor, nn

STUCK = ("towards_others", "margin_transfer", "plateau", "beats_square", "unseen", "gradient_nonzero", "gradient_audit")


def softly(levels: int, sharpness: float) -> Callable[[Tensor], Tensor]:
    """Rounding to levels, smoothed."""

    def soften(x: Tensor) -> Tensor:
        scaled = x * levels
        low = scaled.floor().detach()
        return (low + torch.sigmoid(sharpness * (scaled - low - 0.5))) / levels

    return soften


def _rounded(levels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: (x * levels).round() / levels


def around_levels(levels: int) -> Adaptive:
    """Through smoothed rounding, soft and hard."""

    def attack(victim: Victim) -> list[Tensor]:
        smooth = [
            ascend(victim, lambda x, sharp=sharp: victim.classifier(softly(levels, sharp)(x))) for sharp in (4, 10, 20)
        ]
        straight_through = ascend(victim, lambda x: victim.classifier(straight(x, _rounded(levels)(x))))
        return [*smooth, straight_through]

    return attack


def levels_searched(levels: int) -> Adaptive:
    """The same, then a search in the answers."""
    return searched(lambda victim: lambda x: victim.classifier(_rounded(levels)(x)), around_levels(levels))


@planted(PLATEAU, "gradient_nonzero", "gradient_audit", "margin_transfer", adaptive=levels_searched(2))
def three_levels(x: Tensor, noise: Any) -> Tensor:
    """Rounds to three levels: no gradient anywhere."""
    return _rounded(2)(x) + 0 * x


def soft_bank(victim: Victim, residual: float, temperature: float) -> Callable[[Tensor], Tensor]:
    """A softmax over the training images in place of the nearest one."""
    bank = pictures("train").flatten(1)

    def answer(x: Tensor) -> Tensor:
        apart = torch.cdist(x.flatten(1), bank) ** 2
        mean = (torch.softmax(-apart / temperature, 1) @ bank).view_as(x)
        return victim.classifier((1 - residual) * mean + residual * x)

    return answer


def towards_another_neighbour(residual: float) -> Adaptive:
    """To the training images of other classes, through a softened bank, then by a search in the answers."""

    def attack(victim: Victim) -> list[Tensor]:
        found = [ascend(victim, soft_bank(victim, residual, heat), restarts=2) for heat in (0.5, 2.0)]
        bank = pictures("train")
        with torch.no_grad():
            others = victim.labels[:, None] != victim.classifier(bank).argmax(1)[None]
        apart = torch.cdist(victim.images.flatten(1), bank.flatten(1)).masked_fill(~others, torch.inf)
        return [*found, *(victim.ball(bank[place]) for place in apart.topk(8, 1, largest=False).indices.T)]

    def model(victim: Victim) -> Callable[[Tensor], Tensor]:
        return lambda x: victim.classifier((1 - residual) * nearest(x, "train") + residual * x)

    return searched(model, attack)


@planted(PLATEAU, *STUCK, at="straight_through", adaptive=towards_another_neighbour(0.0))
def nearest_training_image(x: Tensor, noise: Any) -> Tensor:
    """The nearest training image."""
    return nearest(x, "train") + 0 * x


@planted(PLATEAU, *STUCK, at="straight_through", adaptive=towards_another_neighbour(0.5))
def nearest_with_residual(x: Tensor, noise: Any) -> Tensor:
    """Halfway to the nearest training image."""
    return 0.5 * nearest(x, "train") + 0.5 * x


@planted(PLATEAU, *STUCK, adaptive=towards_another_neighbour(0.3))
def nearest_with_small_residual(x: Tensor, noise: Any) -> Tensor:
    """Most of the way to the nearest training image; the gradient that it declares is true, and a third of a step."""
    return 0.7 * nearest(x, "train") + 0.3 * x


@cache
def _patches() -> Tensor:
    """64 patches of 2x2 pixels, by k-means over the training images."""
    from scipy.cluster.vq import kmeans2

    every = nn.functional.unfold(pictures("train")[:400], 2, stride=2).transpose(1, 2).reshape(-1, 4)
    return torch.from_numpy(kmeans2(every.numpy(), 24, seed=0, minit="++")[0]).float()


def _quantised(x: Tensor) -> Tensor:
    cells = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
    found = _patches()[torch.cdist(cells.reshape(-1, 4), _patches()).argmin(1)].view_as(cells)
    return nn.functional.fold(found.transpose(1, 2), (8, 8), 2, stride=2)


@planted(
    PLATEAU,
    *STUCK,
    at="straight_through",
    adaptive=searched(
        lambda victim: lambda x: victim.classifier(_quantised(x)),
        through(lambda victim: lambda x: victim.classifier(straight(x, _quantised(x.detach())))),
    ),
)
def patch_codebook(x: Tensor, noise: Any) -> Tensor:
    """Each patch becomes the nearest of a codebook."""
    return _quantised(x) + 0 * x
