"""Planted defenses that mislead the attacker's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from planted.adaptive import Adaptive, Victim, ascend, searched, through, without_the_trick
from planted.lab import (
    FLIPPED,
    HEAD,
    PLATEAU,
    SATURATED,
    UNDECLARED,
    Planted,
    column,
    is_off_grid,
    nearest,
    pictures,
    plant,
    planted,
    straight,
)
from torch import Tensor, nn

from defenses.base import Defended, Gradient
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.noise import Noise

# A gradient that is honest beside clean images only.


@planted(FLIPPED, "gradient_audit")
def flipped_off_grid(x: Tensor, noise: Any) -> Tensor:
    """Its gradient has the wrong sign at images that are not a picture of 16 levels."""
    return torch.where(column(is_off_grid(x, 16)), 2 * x.detach() - x, x)


@planted(FLIPPED, "gradient_audit")
def flipped_everywhere(x: Tensor, noise: Any) -> Tensor:
    """Its gradient has the wrong sign."""
    return 2 * x.detach() - x


@planted(FLIPPED, "gradient_nonzero", "gradient_audit")
def none_off_grid(x: Tensor, noise: Any) -> Tensor:
    """It has no gradient at images that are not a picture of 16 levels."""
    return torch.where(column(is_off_grid(x, 16)), x.detach() + 0 * x, x)


@planted(FLIPPED, "gradient_audit", "margin_transfer")
def flipped_far_out(x: Tensor, noise: Any) -> Tensor:
    """Its gradient has the wrong sign where an image is far from all pictures of 16 levels."""
    away = (x * 16 - (x * 16).round()).abs().flatten(1).mean(1)
    return torch.where(column(away > 0.1), 2 * x.detach() - x, x)


@planted(FLIPPED, "gradient_audit", "margin_transfer")
def neighbours_gradient(x: Tensor, noise: Any) -> Tensor:
    """Its gradient is that of the next image of the batch."""
    rolled = x.roll(1, 0)
    return x.detach() + rolled - rolled.detach()


@planted(FLIPPED, "gradient_audit", "margin_transfer")
def scrambled_gradient(x: Tensor, noise: Any) -> Tensor:
    """Its gradient is turned upside down."""
    turned = x.flip(2, 3)
    return x.detach() + turned - turned.detach()


# A head that masks.


class Head(nn.Module):
    """A classifier whose logits are changed."""

    def __init__(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.classifier, self.change = classifier, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.classifier(x))


@dataclass(frozen=True, kw_only=True)
class Headed(Planted):
    """Changes the logits: the attack by hand takes the head off."""

    kind: ClassVar[str] = HEAD
    told_by: ClassVar[frozenset[str]] = frozenset({"margin_transfer", "gradient_nonzero", "gradient_audit"})
    change: ClassVar[Callable[[Tensor], Tensor]]

    def defend(self, classifier: nn.Module, score: Any = None, *, gradient: Gradient = "exact") -> Defended:
        return super().defend(Head(classifier, type(self).change), score, gradient=gradient)


@plant
@dataclass(frozen=True, kw_only=True)
class Clamped(Headed):
    """Logits held to +-2: the gradient vanishes wherever the classifier is sure."""

    name: ClassVar[str] = "planted_clamped"
    change = staticmethod(lambda logits: logits.clamp(-2, 2))


@plant
@dataclass(frozen=True, kw_only=True)
class ClampedTransfer(Headed):
    """The same, attacked by transfer: the classifier that is handed over has the head."""

    name: ClassVar[str] = "planted_clamped_transfer"
    at: ClassVar[Gradient] = "transfer"
    told_by: ClassVar[frozenset[str]] = frozenset({"margin_transfer"})
    change = staticmethod(lambda logits: logits.clamp(-2, 2))


@plant
@dataclass(frozen=True, kw_only=True)
class Stepped(Headed):
    """Logits in steps of 1/2."""

    name: ClassVar[str] = "planted_stepped"
    change = staticmethod(lambda logits: (2 * logits).round() / 2 + 0 * logits)


@plant
@dataclass(frozen=True, kw_only=True)
class Flat(Headed):
    """Logits through a hyperbolic tangent that is 1 in float32 almost everywhere."""

    name: ClassVar[str] = "planted_flat"
    change = staticmethod(lambda logits: (20 * logits).tanh() + 1e-3 * logits.detach())


@plant
@dataclass(frozen=True, kw_only=True)
class WaveHead(Headed):
    """A fast wave on the logits: the label stays, the slope means nothing."""

    name: ClassVar[str] = "planted_wave_head"
    told_by: ClassVar[frozenset[str]] = frozenset({"margin_transfer", "gradient_scale"})
    change = staticmethod(lambda logits: logits + 0.05 * (500 * logits).sin())


@plant
@dataclass(frozen=True, kw_only=True)
class Loud(Headed):
    """Logits times 100: cross-entropy is flat."""

    name: ClassVar[str] = "planted_loud"
    kind: ClassVar[str] = SATURATED
    told_by: ClassVar[frozenset[str]] = frozenset({"saturated_loss"})
    change = staticmethod(lambda logits: 100 * logits)


@plant
@dataclass(frozen=True, kw_only=True)
class Louder(Headed):
    """Logits times 1000."""

    name: ClassVar[str] = "planted_louder"
    kind: ClassVar[str] = SATURATED
    told_by: ClassVar[frozenset[str]] = frozenset({"saturated_loss"})
    change = staticmethod(lambda logits: 1000 * logits)


@plant
@dataclass(frozen=True, kw_only=True)
class Sure(Headed):
    """Thirty is added to the largest logit: cross-entropy is flat, the label stays."""

    name: ClassVar[str] = "planted_sure"
    kind: ClassVar[str] = SATURATED
    told_by: ClassVar[frozenset[str]] = frozenset({"saturated_loss", "gradient_nonzero"})
    change = staticmethod(lambda logits: logits + 30 * nn.functional.one_hot(logits.argmax(1), logits.shape[1]))


# A gradient that is not declared.


def with_its_own_gradient(victim: Victim) -> list[Tensor]:
    """Autograd through the sampler, new draws at each step, whatever is declared."""
    defended = victim.defense.defend(victim.classifier, victim.score, gradient="straight_through").eval()
    defended.gradient = "exact"
    seeds = iter(range(10**6))
    rows = torch.arange(len(victim.images))

    def answer(x: Tensor) -> Tensor:
        return defended(x, Noise(next(seeds), rows))

    draws = 4 if victim.defense.stochastic else 1
    return [ascend(victim, answer, steps=50, restarts=2, draws=draws), *without_the_trick(victim)]


@dataclass(frozen=True, kw_only=True)
class Silent:
    """What the undeclared ones share."""

    gradients: ClassVar[tuple[Gradient, ...]] = ()
    kind: ClassVar[str] = UNDECLARED
    told_by: ClassVar[frozenset[str]] = frozenset({"undeclared_gradient"})
    at: ClassVar[Gradient] = "straight_through"
    adaptive: ClassVar[Adaptive] = staticmethod(with_its_own_gradient)
    judged_on: ClassVar[str] = "test"

    t: float = 0.1
    steps: int | None = 4


@plant
@dataclass(frozen=True, kw_only=True)
class SilentODE(Silent, DiffPureODE):
    """DiffPure as an ODE that does not declare its gradient."""

    name: ClassVar[str] = "planted_silent_ode"


@plant
@dataclass(frozen=True, kw_only=True)
class SilentSDE(Silent, DiffPureSDE):
    """DiffPure that does not declare its gradient."""

    name: ClassVar[str] = "planted_silent_sde"


@plant
@dataclass(frozen=True, kw_only=True)
class SilentDDPM(Silent, DDPM):
    """DDPM that does not declare its gradient."""

    name: ClassVar[str] = "planted_silent_ddpm"


# Piecewise constant purifiers.

STUCK = ("margin_transfer", "plateau", "beats_square", "unseen", "gradient_nonzero", "gradient_audit")


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
