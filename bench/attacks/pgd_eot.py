"""Projected gradient descent on the expectation over a defense's noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.attacks.losses import Loss
from bench.records import WEAK_ATTACK
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended

Start = Literal["zero", "random", "zero_then_random"]
WEAK = f"{WEAK_ATTACK}PGD in L1; apgd_eot and apgd_t_eot find more."


@dataclass
class _Ascent:
    x: Tensor
    velocity: Tensor
    best: Tensor
    best_margin: Tensor


@register
@dataclass(frozen=True, kw_only=True)
class PGDEOT(Attack):
    """PGD+EOT (Madry et al., ICLR 2018, section 2.1; Athalye et al., ICML 2018; settings of Lee & Kim, ICCV 2023).

    Attributes:
        steps: gradient steps, at least 1.
        step_size: length of a step, image units, > 0; L2 steps follow the normalised gradient, L1 steps the signs of
            its largest 5 % (SLIDE; Tramer & Boneh, NeurIPS 2019), a weak attack beside `apgd_eot`.
        eot: draws a step, at least 1, all in one batch; a step follows their mean loss.
        loss: "ce", "margin" or "dlr".
        restarts: at least 1; per image the one with the largest margin wins.
        start: "zero" (Lee & Kim), "random", or "zero_then_random" for the first restart and the others.
        select: the "last" iterate (Lee & Kim) or the "best" one by mean margin.
        resample: new selection draws at every step, as Lee & Kim, or the same ones.
        momentum: of the L1-normalised gradient (MI-FGSM; Dong et al., CVPR 2018, Eq. 6), in [0, 1); 0 for none.
    """

    title: ClassVar[str] = "PGD+EOT"
    source: ClassVar[str] = "Madry et al., ICLR 2018; Athalye et al., ICML 2018; Lee & Kim, ICCV 2023, arXiv:2303.09051"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 200
    step_size: float = 0.007
    eot: int = 20
    loss: Loss = "ce"
    restarts: int = 1
    start: Start = "random"
    select: Literal["last", "best"] = "last"
    resample: bool = True
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, step_size=self.step_size, eot=self.eot, restarts=self.restarts)
        for name, value, known in (
            ("loss", self.loss, get_args(Loss)),
            ("start", self.start, get_args(Start)),
            ("select", self.select, ("last", "best")),
        ):
            if value not in known:
                raise ValueError(f"Expected {name} among {', '.join(known)}, got {value!r}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected momentum in [0, 1), got {self.momentum}.")

    def looks(self) -> int:
        """See `Attack.looks`."""
        return super().looks() if self.resample else 1

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
        self.warn(threat, trace)
        for restart in range(self.restarts):
            x, found = self.ascend(oracle, images, threat, restart, trace)
            better = found > best_margin
            best = choose(better, x, best)
            best_margin = torch.where(better, found, best_margin)
        return best

    def warn(self, threat: ThreatModel, trace: Trace | None) -> None:
        """Tell the reader of a number in L1, once, that the attack behind it is weak; not where others attack too."""
        if trace is not None and not trace.of_a_part and threat.norm == "L1" and WEAK not in trace.notes:
            trace.notes.append(WEAK)

    def ascend(
        self, oracle: Oracle, images: Tensor, threat: ThreatModel, restart: int, trace: Trace | None
    ) -> tuple[Tensor, Tensor]:
        """One restart.

        Args:
            oracle: asks the defense.
            images: clean images, the centres of the balls.
            threat: the ball.
            restart: its number; each has draws of its own.
            trace: receives its steps.

        Returns:
            The selected iterate, and its mean margin (batch,) where iterates are compared.
        """
        x = self._first(oracle, images, threat, restart)
        at = _Ascent(x, torch.zeros_like(x), x, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype))
        compared = self.select == "best" or self.restarts > 1  # then the last iterate is judged too
        for step in resumable(range(self.steps + compared), at):
            query = restart * (self.steps + compared) + step
            closing = step == self.steps
            ask = oracle.evaluate if closing else oracle.gradient
            draw = query * self.eot if self.resample else 0
            answer = ask(at.x, draw)
            if trace is not None:
                trace.log(self.name, query, oracle.image_ids, answer.loss, answer.correct, draw=draw)
            if self.select == "best" or closing:
                better = answer.margin > at.best_margin
                at.best = choose(better, at.x, at.best)
                at.best_margin = torch.where(better, answer.margin, at.best_margin)
            if answer.gradient is not None:
                at.velocity = self._velocity(at.velocity, answer.gradient)
                at.x = threat.project(at.x + self.step_size * threat.direction(at.velocity), images)
        return (at.best, at.best_margin) if compared else (at.x, torch.zeros_like(at.best_margin))

    def _velocity(self, velocity: Tensor, gradient: Tensor) -> Tensor:
        if not self.momentum:
            return gradient
        size = gradient.flatten(1).abs().sum(1).view(-1, *[1] * (gradient.ndim - 1))
        return self.momentum * velocity + gradient / size.clamp_min(torch.finfo(size.dtype).tiny)

    def _first(self, oracle: Oracle, images: Tensor, threat: ThreatModel, restart: int) -> Tensor:
        random = self.start == "random" or (self.start == "zero_then_random" and restart > 0)
        return threat.random_start(images, oracle.uniform(images, restart)) if random else images
