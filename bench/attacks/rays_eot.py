"""RayS on a stochastic defense: a search for the shortest way to a wrong label, from labels alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.threat import Norm, ThreatModel
from defenses.base import Defended

IsWrong = Callable[[Tensor, Tensor, Tensor], Tensor]
HALVINGS = 10  # of a binary search for the radius


@register
@dataclass(frozen=True, kw_only=True)
class RaySEOT(Attack):
    """RayS (Chen & Gu, KDD 2020, Algorithms 1 to 3), Linf, hard labels only, on the majority of fresh draws.

    Along a direction of signs the smallest radius that gives a wrong label is found by a binary search. One block of
    signs is flipped a step, halves first, then quarters and so on; a flip is kept where the label is still wrong at the
    present radius, and the radius shrinks. No gradient, no logit: masked gradients and scores do not stop it. A label
    is wrong where at least half of the draws are. The image moves along the direction by the radius, at most epsilon,
    or by epsilon where more draws are wrong there: at the radius about half of a stochastic defense's are.

    Attributes:
        steps: flips, at least 1.
        eot: draws of a label, at least 1; new ones at every question.
    """

    title: ClassVar[str] = "RayS+EOT"
    source: ClassVar[str] = "Chen & Gu, KDD 2020, arXiv:2006.12792, Algorithms 1-3"
    gradient_free: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)
    continues: ClassVar[bool] = True

    steps: int = 500
    eot: int = 5

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, eot=self.eot)

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`: a flip asks once, and a search where it is kept."""
        return ((self.steps + 1) * (1 + HALVINGS) + 2) * self.eot, 0

    def looks(self) -> int:
        """Two: nothing that is asked about need lie in the ball, but the two images at the end."""
        return 2

    @torch.no_grad()
    def perturb(
        self,
        model: Defended,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        seed: int,
        *,
        trace: Trace | None = None,
    ) -> Tensor:
        """Adversarial images; see `Attack.perturb`. Raises ValueError for any norm but Linf."""
        if threat.norm != "Linf":
            raise ValueError(f"RayS searches in norm Linf, got {threat.norm}. Use square_eot or nes_eot.")
        oracle = Oracle(model, labels, image_ids, seed, eot=self.eot, loss="margin", trace=trace)
        at = _Ray(torch.ones_like(images), torch.ones_like(images.flatten(1)[:, 0]))

        def is_wrong(rows: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
            at.asked += 1
            x = (images[rows] + radius.view(-1, 1, 1, 1) * signs).clamp(0, 1)
            correct = oracle.at(rows).evaluate(x, at.asked * self.eot).correct
            return correct.double().mean(0) <= 0.5

        every = torch.arange(len(images), device=images.device)
        at.radius = self._shorten(is_wrong, every[is_wrong(every, at.signs, at.radius)], at.signs, at.radius)
        flips = list(islice(blocks(images[0].numel()), self.steps))
        for step in resumable(range(self.steps), at):
            flipped = at.signs.flatten(1).clone()
            flipped[:, flips[step]] *= -1
            flipped = flipped.view_as(at.signs)
            better = is_wrong(every, flipped, at.radius)
            at.signs = choose(better, flipped, at.signs)
            at.radius = self._shorten(is_wrong, better.nonzero().squeeze(1), at.signs, at.radius)
            if trace is not None:
                inside = (at.radius > threat.epsilon).expand(1, -1)
                trace.point(self.name, step, image_ids, at.radius, inside)
        near, far = (
            threat.project(images + length.view(-1, 1, 1, 1) * at.signs, images)
            for length in (at.radius.clamp_max(threat.epsilon), torch.full_like(at.radius, threat.epsilon))
        )
        answers = [oracle.evaluate(x, (at.asked + 1 + k) * self.eot) for k, x in enumerate((near, far))]
        if trace is not None:
            for k, answer in enumerate(answers):
                trace.look(image_ids, answer.correct[:1], [k])
        wrong = [1 - answer.correct.double().mean(0) for answer in answers]
        return choose(wrong[1] > wrong[0], far, near)

    def _shorten(self, is_wrong: IsWrong, rows: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
        """The smallest radius that is wrong along the signs of these rows, by halving."""
        if not len(rows):
            return radius
        low, high = torch.zeros_like(radius[rows]), radius[rows]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            wrong = is_wrong(rows, signs[rows], middle)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return radius.index_copy(0, rows, high)


@dataclass
class _Ray:
    """Where the search stands: (batch, ...) signs, (batch,) radii, and the questions so far."""

    signs: Tensor
    radius: Tensor
    asked: int = 0


def blocks(size: int) -> Iterator[slice]:
    """Places of `size` numbers that are flipped together: all, the two halves, the quarters ..., then again."""
    while True:
        count = 1
        while True:
            width = -(-size // count)
            yield from (slice(start, min(start + width, size)) for start in range(0, size, width))
            if width == 1:
                break
            count *= 2
