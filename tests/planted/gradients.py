"""Planted defenses that mislead the attacker's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from planted.adaptive import Adaptive, Victim, ascend, without_the_trick
from planted.lab import (
    FLIPPED,
    HEAD,
    SATURATED,
    UNDECLARED,
    Planted,
    column,
    is_off_grid,
    plant,
    planted,
)
from torch import Tensor, nn

from defenses.base import Defended, Gradient, Purify
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


class Turn(torch.autograd.Function):
    """The identity, whose gradient has the wrong sign in some rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return torch.where(column(rows), -gradients[0], gradients[0]), None


def is_on_the_way(x: Tensor) -> Tensor:
    """(batch,) whether more than half of the pixels lie on 16 levels, but not nearly all: steps have met the ball."""
    share = ((x * 16 - (x * 16).round()).abs() < 1e-3).flatten(1).float().mean(1)
    return (share > 0.55) & (share < 0.97)


@planted(FLIPPED, "gradient_audit")
def flipped_on_the_way(x: Tensor, noise: Any) -> Tensor:
    """Its gradient is honest at pictures and at random starts, and has the wrong sign where steps lead."""
    return Turn.apply(x, is_on_the_way(x))


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


def through_its_twin(victim: Victim) -> list[Tensor]:
    """Autograd through DiffPure as it is."""
    return with_its_own_gradient(replace(victim, defense=DiffPureODE(t=0.1, steps=4)))


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


@plant
@dataclass(frozen=True, kw_only=True)
class FlippedODE(DiffPureODE):
    """DiffPure, its gradient flipped where steps lead: a transfer from the bare classifier says nothing here."""

    name: ClassVar[str] = "planted_flipped_ode"
    kind: ClassVar[str] = FLIPPED
    told_by: ClassVar[frozenset[str]] = frozenset({"gradient_audit"})
    at: ClassVar[Gradient] = "exact"
    adaptive: ClassVar[Adaptive] = staticmethod(through_its_twin)
    judged_on: ClassVar[str] = "test"

    t: float = 0.1
    steps: int | None = 4

    def build(self, *, classifier: Any = None, score: Any, gradient: Gradient = "exact") -> Purify:
        """The same purifier behind `Turn`."""
        purify = super().build(classifier=classifier, score=score, gradient=gradient)
        return lambda x, noise: purify(Turn.apply(x, is_on_the_way(x)), noise)
