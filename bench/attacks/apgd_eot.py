"""Auto-PGD whose schedule looks at the mean over a defense's noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Answer, Attack, Oracle, Trace, check_positive, choose, register
from bench.attacks.losses import Loss
from bench.threat import NORMS, Norm, ThreatModel, sparse_signs
from defenses.base import Defended

FEWEST = 10  # queries of a run in L1 that are shared by three radii


@register
@dataclass(frozen=True, kw_only=True)
class APGDEOT(Attack):
    """APGD (Croce & Hein, ICML 2020, Algorithm 1) on the mean over draws (EOT; Athalye et al., ICML 2018).

    A step is kept long while it raises the loss: the step size starts at twice epsilon and is halved where at most
    `rho` of a window's steps raised the mean loss, or where the best mean loss stood still. The image returned is the
    one with the largest mean margin over all iterates and restarts. See docs/methods.md for what the AutoAttack
    library's `rand` version does otherwise.

    In L1 it is the APGD of Croce & Hein, ICML 2021 (arXiv:2103.01208): steps along the signs of the largest values of
    the gradient, as many as two thirds of those that the best point so far moves, a step size between epsilon and a
    tenth of it, the exact projection on ball and box, no momentum; 30 % of the queries in three times the radius, 30 %
    in twice, and the rest in the radius itself, whose points alone count. With fewer than 10 queries all are there.

    Attributes:
        steps: gradient steps of a restart, >= 1; in L1 two less, as each radius asks about its start.
        eot: draws that each gradient is averaged over, >= 1; new ones at every step.
        loss: what is maximised: "ce", "margin" or "dlr".
        restarts: random starts, >= 1.
        rho: share of a window's steps that must raise the loss for the step size to stay, in (0, 1]; no part of L1.
    """

    title: ClassVar[str] = "APGD+EOT"
    source: ClassVar[str] = (
        "Croce & Hein, ICML 2020, arXiv:2003.01690, Algorithm 1; L1: ICML 2021, arXiv:2103.01208; Athalye et al., "
        "ICML 2018"
    )
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    eot: int = 20
    loss: Loss = "ce"
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, eot=self.eot, restarts=self.restarts)
        if self.loss not in get_args(Loss):
            raise ValueError(f"Expected loss among {', '.join(get_args(Loss))}, got {self.loss!r}.")
        if not 0 < self.rho <= 1:
            raise ValueError(f"Expected rho in (0, 1], got {self.rho}.")

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return 0, (self.steps + 1) * self.eot * self.restarts

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
        """Adversarial images; see `Attack.perturb`."""
        oracle = Oracle(model, labels, image_ids, seed, eot=self.eot, loss=self.loss, trace=trace)
        best, best_margin = images, torch.full_like(labels, -torch.inf, dtype=images.dtype)
        for restart in range(self.restarts):
            start = self.start(oracle, images, threat, restart)
            climb = self.climb(oracle, images, threat, start, query=restart * (self.steps + 1))
            best = choose(climb.margin > best_margin, climb.worst, best)
            best_margin = torch.maximum(climb.margin, best_margin)
        return best

    def start(self, oracle: Oracle, images: Tensor, threat: ThreatModel, restart: int) -> Tensor:
        """A random start of the shape of `images`: in the ball, in L1 in the first and widest one.

        Args:
            oracle: draws it.
            images: the centres.
            threat: the ball.
            restart: its number.
        """
        widest = 1 if threat.norm != "L1" else radii(self.steps + 1)[0][0]
        wide = threat if widest == 1 else replace(threat, epsilon=widest * threat.epsilon)
        return wide.random_start(images, oracle.uniform(images, restart))

    def climb(
        self, oracle: Oracle, images: Tensor, threat: ThreatModel, start: Tensor, query: int = 0, name: str = ""
    ) -> Climb:
        """One run of APGD.

        Args:
            oracle: asks the defense.
            images: clean images (batch, channels, height, width), the centres of the balls.
            threat: the ball.
            start: first iterate, of the shape of `images`, see `start`.
            query: number of the run's first query; it asks steps + 1 of them.
            name: in the trace; empty is this attack's.

        Returns:
            The run at its end.
        """
        if threat.norm == "L1":
            return self._climb_sparsely(oracle, images, threat, start, query, name)
        climb = Climb(start, self._ask(oracle, start, query, name), threat)
        windows = checkpoints(self.steps)
        for step in resumable(range(1, self.steps + 1), climb, oracle.memory):
            climb.move(images, threat, 0.75 if step > 1 else 1.0)
            climb.see(self._ask(oracle, climb.x, query + step, name))
            if step in windows:
                climb.reconsider(self.rho * windows[step])
        return climb

    def _climb_sparsely(
        self, oracle: Oracle, images: Tensor, threat: ThreatModel, x: Tensor, query: int, name: str
    ) -> Climb:
        """A run in L1: from the best point of each radius to the next smaller one."""
        for factor, queries in radii(self.steps + 1):
            ball = replace(threat, epsilon=factor * threat.epsilon)
            x = ball.project(x, images)
            climb = SparseClimb(x, self._ask(oracle, x, query, name, inside=factor == 1), ball, images)
            often = max(int(0.04 * (queries - 1)), 1)
            for step in resumable(range(1, queries), climb, oracle.memory):
                climb.move(images, ball, 1.0)
                climb.see(self._ask(oracle, climb.x, query + step, name, inside=factor == 1))
                if step % often == 0:
                    climb.reconsider(0.0)
            x, query = climb.best, query + queries
        return climb

    def _ask(self, oracle: Oracle, x: Tensor, query: int, name: str, *, inside: bool = True) -> Answer:
        """The answer at x; a look at the defense where x lies in the ball of the threat model."""
        answer = oracle.gradient(x, query * self.eot)
        if oracle.trace is not None:
            told = name or self.name, query, oracle.image_ids, answer.loss, answer.correct
            if inside:
                oracle.trace.log(*told, draw=query * self.eot)
            else:
                oracle.trace.point(*told)
        return answer


def radii(queries: int) -> tuple[tuple[int, int], ...]:
    """(radius in epsilons, queries) of a run in L1, one after the other."""
    if queries < FEWEST:
        return ((1, queries),)
    wide = math.ceil(0.3 * queries)
    return (3, wide), (2, wide), (1, queries - 2 * wide)


def checkpoints(steps: int, of: int | None = None) -> dict[int, int]:
    """Step -> length of the window that it closes: 0.22 of `of` (`steps`), then 0.03 less each time, at least 0.06."""
    window, least, shrink = (max(int(share * (of or steps)), 1) for share in (0.22, 0.06, 0.03))
    closes, at = {}, 0
    while at + window <= steps:
        at += window
        closes[at] = window
        window = max(window - shrink, least)
    return closes


class Climb:
    """One run of APGD, image by image.

    Attributes:
        x: iterate (batch, channels, height, width); `previous` is the one before.
        gradient: of the mean loss at `x`.
        loss: mean loss at `x`, (batch,).
        best: point of the highest mean loss `best_loss`, with its gradient `best_gradient`.
        worst: point of the largest mean margin `margin`, which is the run's result.
        step_size: image units, one an image.
        rises: steps since the last checkpoint that raised the loss, (batch,).
        halved: whether the last checkpoint halved the step size, (batch,).
    """

    def __init__(self, x: Tensor, answer: Answer, threat: ThreatModel) -> None:
        self.x = self.previous = self.best = self.worst = x
        self.gradient = self.best_gradient = _gradient(answer)
        self.best_loss = self.checked_loss = answer.loss
        self.margin = answer.margin
        self.step_size = torch.full_like(x.flatten(1)[:, 0], 2 * threat.epsilon).view(-1, *[1] * (x.ndim - 1))
        self.loss = answer.loss
        self.rises = torch.zeros_like(answer.loss)
        self.halved = torch.ones_like(answer.loss, dtype=torch.bool)

    def move(self, images: Tensor, threat: ThreatModel, share: float) -> None:
        """One step along the gradient, `share` of it, the rest momentum."""
        target = threat.project(self.x + self.step_size * threat.direction(self.gradient), images)
        x = self.x + share * (target - self.x) + (1 - share) * (self.x - self.previous)
        self.previous, self.x = self.x, threat.project(x, images)

    def see(self, answer: Answer) -> None:
        """Take in the answer at `x`."""
        self.gradient = _gradient(answer)
        self.rises += answer.loss > self.loss
        self.loss = answer.loss
        higher = answer.loss > self.best_loss
        self.best = choose(higher, self.x, self.best)
        self.best_gradient = choose(higher, self.gradient, self.best_gradient)
        self.best_loss = torch.maximum(answer.loss, self.best_loss)
        self.worst = choose(answer.margin > self.margin, self.x, self.worst)
        self.margin = torch.maximum(answer.margin, self.margin)

    def reconsider(self, enough: float) -> None:
        """At a checkpoint: halve the step and go back to the best point where too few steps rose, or none improved."""
        stuck = ~self.halved & (self.checked_loss >= self.best_loss)
        self.halved = (self.rises <= enough) | stuck
        self.step_size = choose(self.halved, self.step_size / 2, self.step_size)
        self.x = choose(self.halved, self.best, self.x)
        self.gradient = choose(self.halved, self.best_gradient, self.gradient)
        self.checked_loss = self.best_loss
        self.rises = torch.zeros_like(self.rises)


class SparseClimb(Climb):
    """One run of L1-APGD in one radius (Croce & Hein, ICML 2021, Algorithm 1), image by image.

    Attributes:
        images: the centres, (batch, channels, height, width).
        epsilon: the radius, image units.
        moved: values in which the best point of the last checkpoint differs from its image, (batch,).
        kept: values that a step moves, (batch,).
    """

    def __init__(self, x: Tensor, answer: Answer, threat: ThreatModel, images: Tensor) -> None:
        super().__init__(x, answer, threat)
        self.images, self.epsilon = images, threat.epsilon
        self.step_size = self.step_size / 2  # from epsilon on
        self.moved = self._differ(x)
        self.kept = self.moved / 1.5

    def move(self, images: Tensor, threat: ThreatModel, share: float) -> None:
        """One step along the signs of the largest values, without momentum."""
        step = self.step_size * sparse_signs(self.gradient, self.kept)
        self.previous, self.x = self.x, threat.project(self.x + step, images)

    def reconsider(self, enough: float) -> None:
        """At a checkpoint: where the best point has become sparser, back to it with a long step; else a shorter one."""
        moved = self._differ(self.best)
        sparser = moved < 0.95 * self.moved
        shorter = (self.step_size / 1.5).clamp_min(self.epsilon / 10)
        self.step_size = choose(sparser, torch.full_like(self.step_size, self.epsilon), shorter)
        self.x = choose(sparser, self.best, self.x)
        self.gradient = choose(sparser, self.best_gradient, self.gradient)
        self.moved, self.kept = moved, moved / 1.5

    def _differ(self, x: Tensor) -> Tensor:
        return (x != self.images).flatten(1).sum(1).to(x)


def _gradient(answer: Answer) -> Tensor:
    assert answer.gradient is not None
    return answer.gradient
