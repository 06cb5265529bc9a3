"""Purifiers one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from defenses.base import GRADIENTS, Gradient, Networks, Purifier, Purify, defenses, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource
from defenses.recorded import as_source
from defenses.traits import per_instance


@register
@dataclass(frozen=True, kw_only=True)
class Chain(Purifier):
    """Any purifiers in sequence, the first one nearest to the image; each sees what the one before it returns.

    Whether it is stochastic or batch-coupled, what it needs, its kinds of gradient and its cost follow from the
    members. A kind of gradient holds for the members that have it, and the others are differentiated exactly; where a
    member has no exact gradient, neither has the chain. The first member sees the same noise as it would alone, the
    later ones independent noise.

    Attributes:
        members: pairs (name, fields) of registered purifiers, in order; fields left out take their defaults. A member
            purifies once (its `runs` is 1): `runs` and `combine` are the chain's.
    """

    title: ClassVar[str] = "chain"
    source: ClassVar[str] = "A composition; each member has its own source"
    stochastic: ClassVar[bool] = per_instance(True, lambda self: self._any_member("stochastic"))
    batch_coupled: ClassVar[bool] = per_instance(False, lambda self: self._any_member("batch_coupled"))
    needs_score: ClassVar[bool] = per_instance(False, lambda self: self._any_member("needs_score"))
    needs_classifier: ClassVar[bool] = per_instance(False, lambda self: self._any_member("needs_classifier"))
    gradients: ClassVar[tuple[Gradient, ...]] = per_instance(("exact",), lambda self: _gradients(self.purifiers))

    members: tuple[tuple[str, Mapping[str, Any]], ...] = (("gaussian_noise", {"sigma": 0.1}), ("median_blur", {}))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members:
            raise ValueError("Expected at least one member, got none.")
        resolved = tuple((member.name, member.params()) for member in self.purifiers)
        object.__setattr__(self, "members", resolved)  # with all their fields

    def __hash__(self) -> int:
        return hash(repr(self))

    @cached_property
    def purifiers(self) -> tuple[Purifier, ...]:
        """The members, in order."""
        return tuple(_member(name, fields) for name, fields in self.members)

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * sum(member.network_evaluations for member in self.purifiers)

    def networks(self) -> Networks:
        """The networks of all members."""
        own = [member.networks() for member in self.purifiers]
        return Networks(
            classifiers=tuple(dict.fromkeys(name for each in own for name in each.classifiers)),
            scores=tuple(dict.fromkeys(name for each in own for name in each.scores)),
        )

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
        """The pure function (images, noise) -> images; see `Purifier.build`."""
        links = [
            member.fitted(
                classifier=classifier, score=score, gradient=gradient if gradient in member.gradients else "exact"
            )
            for member in self.purifiers
        ]

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            images, source = links[0](images, noise), as_source(noise, len(images))
            for position, link in enumerate(links[1:], start=1):
                images = link(images, source.derive(f"chain member {position}"))
            return images

        return purify

    fitted = build  # each member is resized for, not the chain

    def _any_member(self, flag: str) -> bool:
        return any(getattr(member, flag) for member in self.purifiers)


def _member(name: str, fields: Mapping[str, Any]) -> Purifier:
    cls = defenses[name]
    if not issubclass(cls, Purifier):
        raise ValueError(f"Expected purifiers as the members of a chain, got {name!r}, which is none.")
    member = cls(**{"runs": 1, **fields})
    if member.runs != 1:
        raise ValueError(f"Expected runs=1 of {name!r} in a chain, got {member.runs}. Set the runs of the chain.")
    return member


def _gradients(members: Sequence[Purifier]) -> tuple[Gradient, ...]:
    """The kinds that some member has, if every member has at least the exact one."""
    if not all("exact" in member.gradients for member in members):
        return ()
    return tuple(cast(Gradient, kind) for kind in GRADIENTS if any(kind in member.gradients for member in members))
