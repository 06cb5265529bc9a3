"""Purifiers one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from defenses.base import GRADIENTS, Gradient, Purifier, Purify, defenses, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import Noise, role_seed


@register
@dataclass(frozen=True, kw_only=True)
class Chain(Purifier):
    """Any purifiers in sequence, the first one nearest to the image; each sees what the one before it returns.

    Whether it is stochastic or batch-coupled, what it needs, its kinds of gradient and its cost follow from the
    members. A kind of gradient holds for the members that have it, and the others are differentiated exactly; where a
    member has no exact gradient, neither has the chain. The first member sees the same noise as it would alone, the
    later ones independent noise.

    members: pairs (name, fields) of registered purifiers, in order; fields left out take their defaults. A member
    purifies once (its `runs` is 1): `runs` and `combine` are the chain's.
    """

    title: ClassVar[str] = "chain"
    source: ClassVar[str] = "A composition; each member has its own source"
    stochastic: ClassVar[bool] = True  # this and the following: of an instance, as its members have it

    members: tuple[tuple[str, Mapping[str, Any]], ...] = (("gaussian_noise", {"sigma": 0.1}), ("median_blur", {}))

    def __post_init__(self) -> None:
        super().__post_init__()
        made = [_member(name, fields) for name, fields in self.members]
        if not made:
            raise ValueError("Expected at least one member, got none.")
        traits = {
            "members": tuple((member.name, member.params()) for member in made),
            "gradients": _gradients(made),
            **{flag: any(getattr(member, flag) for member in made) for flag in _FLAGS},
        }
        for name, value in traits.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def purifiers(self) -> tuple[Purifier, ...]:
        """The members, in order."""
        return tuple(_member(name, fields) for name, fields in self.members)

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * sum(member.network_evaluations for member in self.purifiers)

    def surrogate(self) -> Self:
        """The chain of the members' surrogates, where they have one; a single run."""
        cheap = [m.surrogate() if "surrogate" in m.gradients else m for m in self.purifiers]
        return replace(self, members=tuple((m.name, m.params()) for m in cheap), runs=1)

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        links = [
            member.fitted(
                classifier=classifier, score=score, gradient=gradient if gradient in member.gradients else "exact"
            )
            for member in self.purifiers
        ]

        def purify(images: Tensor, noise: Noise) -> Tensor:
            for position, link in enumerate(links):
                images = link(images, _noise_of(position, noise))
            return images

        return purify

    fitted = build  # each member is resized for, not the chain


_FLAGS = ("stochastic", "batch_coupled", "needs_score", "needs_classifier")


def _member(name: str, fields: Mapping[str, Any]) -> Purifier:
    cls = defenses[name]
    if not issubclass(cls, Purifier):
        raise ValueError(f"Expected purifiers as the members of a chain, got {name!r}, which is none.")
    member = cls(**{"runs": 1, **fields})
    if member.runs != 1:
        raise ValueError(f"Expected runs=1 of {name!r} in a chain, got {member.runs}. Set the runs of the chain.")
    return member


def _gradients(members: list[Purifier]) -> tuple[Gradient, ...]:
    """The kinds that some member has, if every member has at least the exact one."""
    if not all("exact" in member.gradients for member in members):
        return ()
    return tuple(cast(Gradient, kind) for kind in GRADIENTS if any(kind in member.gradients for member in members))


def _noise_of(position: int, noise: Noise) -> Noise:
    if position == 0 or not isinstance(noise, Noise):  # recorded noise is taken as it is
        return noise
    return replace(noise, seed=role_seed(noise.seed, f"chain member {position}"))
