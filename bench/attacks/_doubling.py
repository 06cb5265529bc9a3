"""A batch under members of a protocol whose lengths double: who goes on, and the worst so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from bench.attacks._convergence import BY_LENGTH, POINT
from bench.attacks._named_draws import NamedDraws
from bench.attacks.base import UNSEEN, Attack, Oracle, Trace
from bench.attacks.cascade import CONFIRMED, Worst
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient
from defenses.noise import role_seed

CLOSER = 0.1  # share of the margin that is progress on an image of which every check draw is right
Member = tuple[str, Attack, Gradient | None]


class Batch:
    """A batch under attack: who goes on, and what is the worst so far."""

    def __init__(
        self,
        model: Defended,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        seed: int,
        trace: Trace | None,
        *,
        check_draws: int,
        settled: float,
    ) -> None:
        self.model, self.images, self.labels, self.image_ids = model, images, labels, image_ids
        self.threat, self.seed, self.trace = threat, seed, trace
        draws = check_draws if model.stochastic else 1
        check, confirm = (
            Oracle(model, labels, image_ids, seed, eot=count, role=f"selection:strong {role}", trace=trace)
            for role, count in (("check", draws), ("confirm", CONFIRMED - draws))
        )
        unsure = model.stochastic and draws < CONFIRMED
        self.worst = Worst(images, check, confirm if unsure else None, settled)
        self.going = torch.ones(len(images), dtype=torch.bool, device=images.device)

    def run(self, members: Iterable[Member], *, draws: str = "", rounded: bool = False) -> None:
        """Let members attack the images that go on and are not settled.

        Args:
            members: in order.
            draws: name of the selection draws that they see; other names stand for other draws.
            rounded: whether their images are offered as 8-bit pictures too.
        """
        for label, attack, kind in members:
            rows = (self.going & ~self.worst.done).nonzero().squeeze(1)
            if not len(rows):
                return
            if self.model.batch_coupled:
                rows = torch.arange(len(self.images), device=self.images.device)
            view = self.model if kind is None else self.model.with_gradient(kind)
            threat = self.threat if kind is None else replace(self.threat, gradient=kind)
            own = (
                None if self.trace is None else NamedDraws(self.trace, label, draws, looks=view.gradient not in UNSEEN)
            )
            seed = role_seed(self.seed, draws) if draws else self.seed
            given = self.images[rows], self.labels[rows], self.image_ids[rows]
            found = attack.perturb(view, *given, threat, seed, trace=own).detach()
            self.worst.offer(label, threat.project(found, self.images[rows]), rows)
            if rounded:
                self.worst.offer_rounded(label, found, self.images[rows], rows, self.threat)

    def round(self) -> None:
        """Offer the worst so far as 8-bit pictures."""
        rows = torch.arange(len(self.images), device=self.images.device)
        self.worst.offer_rounded("worst", self.worst.images(), self.images, rows, self.threat)

    def gained(self, wrong: Tensor, margin: Tensor) -> Tensor:
        """(batch,) whether a doubling was worth it, given the shares and margins before it."""
        if self.model.batch_coupled:
            return torch.full_like(self.going, bool((self.worst.wrong - wrong).mean() >= POINT))
        closer = (self.worst.wrong == 0) & (self.worst.margin > (1 - CLOSER) * margin)
        return (self.worst.wrong > wrong) | closer

    def together(self, rows: Tensor) -> Tensor:
        """`rows`, or the whole batch if one is among them and answers depend on the batch."""
        return rows.any().expand_as(rows) if self.model.batch_coupled else rows

    def tell(self, steps: int) -> None:
        """A point of the curve: accuracy on the check draws of all images, those that went no further too."""
        if self.trace is not None:
            self.trace.point(BY_LENGTH, steps, self.image_ids, self.worst.margin, 1 - self.worst.wrong[None])
