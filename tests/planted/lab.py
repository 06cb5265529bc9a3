"""What the planted false defenses share: what one is, and what the tricks are made of.

None is registered. Each does nothing, or little, against an attacker who knows it, and prints a robust number by a
trick. Each names the belief of the harness that it uses, the gates that must tell it, and the attack by hand that shows
what it is worth (`planted.adaptive`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from planted.adaptive import Adaptive, without_the_trick
from torch import Tensor

from bench.datasets import load_dataset
from defenses.base import Gradient, Purifier, Purify

Split = Literal["test", "train", "new"]  # new: of no split, see `pictures`
RADIUS = 0.19  # a little more than the ball's

GATES = "behaves where the gates look"
IDS = "reads who asks: ids, seed, role"
COPIES = "recognises copies and batches"
FLIPPED = "its gradient is honest beside clean images only"
UNDECLARED = "does not declare its gradient"
SET = "knows the test set"
HEAD = "masks the gradient in the head"
PLATEAU = "is piecewise constant"
STATE = "has a memory"
DRAWS = "draws, and says that it does not"
ROUNDING = "works off a grid of levels"
SATURATED = "saturates the loss"


@cache
def pictures(split: Split = "test") -> Tensor:
    """The images of a split, in the order of their ids; new ones are training images with two levels of noise."""
    data = load_dataset("digits", split="test" if split == "test" else "train")
    images = data.images(range(len(data)))
    if split != "new":
        return images
    levels = torch.randint(-2, 3, images.shape, generator=torch.Generator().manual_seed(0))
    return (images + levels / 16).clamp(0, 1)


@cache
def answers(split: Split = "test") -> Tensor:
    """Their labels."""
    return torch.as_tensor(load_dataset("digits", split="test" if split == "test" else "train").labels)


def nearest_place(x: Tensor, split: Split = "test") -> Tensor:
    """(batch,) the place of the nearest image of a split."""
    return torch.cdist(x.detach().flatten(1), pictures(split).flatten(1)).argmin(1)


def nearest(x: Tensor, split: Split = "test") -> Tensor:
    """The image of a split that is next to each image."""
    return pictures(split)[nearest_place(x, split)]


def straight(x: Tensor, value: Tensor) -> Tensor:
    """`value` with the gradient of the identity."""
    return x + (value - x).detach()


def column(rows: Tensor) -> Tensor:
    """(batch,) as (batch, 1, 1, 1)."""
    return rows.view(-1, 1, 1, 1)


def within(x: Tensor, target: Tensor) -> Tensor:
    """(batch,) whether an image lies in a ball around a target."""
    return (x.detach() - target).flatten(1).abs().amax(1) <= RADIUS


def restored(x: Tensor, rows: Tensor | bool) -> Tensor:
    """In some rows the test image in whose ball an image lies, with an honest-looking gradient."""
    target = nearest(x)
    rows = torch.as_tensor(rows).expand(len(x)) & within(x, target)
    return torch.where(column(rows), straight(x, target), x)


def is_off_grid(x: Tensor, levels: int, slack: float = 1e-4) -> Tensor:
    """(batch,) whether some pixel is no multiple of 1 / levels."""
    return ((x * levels - (x * levels).round()).abs() > slack * levels).flatten(1).any(1)


@dataclass(frozen=True, kw_only=True)
class Planted(Purifier):
    """A trick: `trick(images, noise)`.

    Class attributes:
        kind: which belief of the harness it uses.
        told_by: gates of which one at least must fail; "failed": the cell itself, with a reason. Without any, the
            protocol leaves the trick no way, and the number that is printed is the true one.
        at: kind of gradient of the cell.
        adaptive: the attack by hand.
        judged_on: the split on which its truth is measured: the one that it does not know.
    """

    source: ClassVar[str] = "A planted false defense."
    stochastic: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact",)
    kind: ClassVar[str]
    told_by: ClassVar[frozenset[str]]
    at: ClassVar[Gradient] = "exact"
    adaptive: ClassVar[Adaptive] = staticmethod(without_the_trick)
    judged_on: ClassVar[Split] = "test"

    def build(self, *, classifier: Any = None, score: Any = None, gradient: Gradient = "exact") -> Purify:
        return lambda images, noise: self.trick(images, noise)

    def trick(self, x: Tensor, noise: Any) -> Tensor:
        return x


PLANTED: list[type[Any]] = []


def planted(kind: str, *told_by: str, **more: Any) -> Callable[[Callable[[Tensor, Any], Tensor]], type[Planted]]:
    """A class of `Planted` from a function (images, noise) -> images.

    Args:
        kind: which belief of the harness it uses.
        told_by: as in `Planted`.
        more: other class attributes of `Planted`.
    """
    if "adaptive" in more:
        more["adaptive"] = staticmethod(more["adaptive"])
    if kind in (GATES, IDS, COPIES, STATE):
        more.setdefault("judged_on", "train")
    if more.get("at") == "straight_through":
        more["gradients"] = ()

    def make(function: Callable[[Tensor, Any], Tensor]) -> type[Planted]:
        body = {
            "name": f"planted_{function.__name__}",
            "title": function.__name__.replace("_", " "),
            "kind": kind,
            "told_by": frozenset(told_by),
            "trick": lambda self, x, noise: function(x, noise),
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            **more,
        }
        cls = dataclass(frozen=True, kw_only=True)(type(function.__name__, (Planted,), body))
        PLANTED.append(cls)
        return cls

    return make


def plant(cls: type[Any]) -> type[Any]:
    """Class decorator: a planted defense that is more than a function of images."""
    PLANTED.append(cls)
    return cls
