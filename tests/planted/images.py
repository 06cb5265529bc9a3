"""Planted defenses that know the pictures, or the grid of numbers that they lie on."""

from __future__ import annotations

from typing import Any

import torch
from planted.adaptive import on_levels
from planted.lab import (
    ROUNDING,
    SET,
    answers,
    column,
    is_off_grid,
    nearest,
    nearest_place,
    pictures,
    planted,
    restored,
    straight,
    within,
)
from torch import Tensor


@planted(SET, "unseen", judged_on="train")
def contraction(x: Tensor, noise: Any) -> Tensor:
    """Moves to the test image that lies within the ball, with a true gradient."""
    target = nearest(x)
    return torch.where(column(within(x, target)), 0.1 * x + 0.9 * target, x)


@planted(SET, "unseen", judged_on="train")
def test_set_posterior(x: Tensor, noise: Any) -> Tensor:
    """The posterior mean of a test image behind noise: a denoiser that learned the test set by heart."""
    distance = torch.cdist(x.flatten(1), pictures().flatten(1)) ** 2
    mean = (torch.softmax(-distance / (2 * 0.2**2), 1) @ pictures().flatten(1)).view_as(x)
    weight = column(torch.sigmoid((3.0 - distance.amin(1)) * 8))  # far from all it knows, it lets things be
    return weight * mean + (1 - weight) * x


def _class_means() -> Tensor:
    return torch.stack([pictures()[answers() == label].mean(0) for label in range(10)])


@planted(SET, "unseen", judged_on="train")
def label_memory(x: Tensor, noise: Any) -> Tensor:
    """Knows the labels of the test set: moves an image that lies in a test image's ball to the mean of its class."""
    place = nearest_place(x)
    near = within(x, pictures()[place])
    return torch.where(column(near), 0.1 * x + 0.9 * _class_means()[answers()[place]], x)


@planted(SET, "unseen", judged_on="new")
def every_split(x: Tensor, noise: Any) -> Tensor:
    """Moves to the image of any split that lies within the ball: the pictures that a gate takes for unseen too."""
    every = torch.cat([pictures(), pictures("train")])
    target = every[torch.cdist(x.detach().flatten(1), every.flatten(1)).argmin(1)]
    return torch.where(column(within(x, target)), 0.1 * x + 0.9 * target, x)


# Grids of levels.


def to_training_image(x: Tensor, rows: Tensor) -> Tensor:
    """In some rows the nearest training image, with the gradient of the identity."""
    return torch.where(column(rows), straight(x, nearest(x, "train")), x)


@planted(ROUNDING, "on_grid", "inside_ball", "agrees_with_cell", adaptive=on_levels(255), at="straight_through")
def off_eight_bits(x: Tensor, noise: Any) -> Tensor:
    """Restores images that are neither pictures of 16 levels nor of 256."""
    return restored(x, is_off_grid(x, 16) & is_off_grid(x, 255, 1e-6))


@planted(ROUNDING, "on_grid", "inside_ball", "agrees_with_cell", adaptive=on_levels(255), at="straight_through")
def mostly_off_eight_bits(x: Tensor, noise: Any) -> Tensor:
    """Restores images whose pixels are far from 256 levels on the average, if they are off 16 levels."""
    away = (x * 255 - (x * 255).round()).abs().flatten(1).mean(1)
    return restored(x, is_off_grid(x, 16) & (away > 0.01))


@planted(ROUNDING, "on_grid", adaptive=on_levels(16), at="straight_through")
def off_sixteen_levels(x: Tensor, noise: Any) -> Tensor:
    """Returns the nearest training image of all that is not a picture of 16 levels."""
    return to_training_image(x, is_off_grid(x, 16))


@planted(ROUNDING, "on_grid", adaptive=on_levels(16), at="straight_through")
def off_half_precision(x: Tensor, noise: Any) -> Tensor:
    """Returns the nearest training image of all that needs more than half precision."""
    return to_training_image(x, (x.detach() != x.detach().half().float()).flatten(1).any(1))


@planted(ROUNDING, "on_grid", "inside_ball", "agrees_with_cell", adaptive=on_levels(255), at="straight_through")
def needs_fine_steps(x: Tensor, noise: Any) -> Tensor:
    """Returns the nearest training image of all that is off 256 levels, but for a few pixels."""
    fine = (x * 255 - (x * 255).round()).abs() > 1e-3
    coarse = (x * 16 - (x * 16).round()).abs() > 1e-3
    return to_training_image(x, (fine & coarse).flatten(1).sum(1) > 3)
