"""PGD with one fresh draw a step: the noise of the defense is averaged over the steps, not within one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from bench.attacks._ascent import STEP, MovingMean, decay, first_iterate
from bench.attacks._journal import resumable
from bench.attacks.base import UNSEEN, Attack, Oracle, Trace, check_positive, register
from bench.attacks.losses import Loss
from bench.threat import ThreatModel
from defenses.base import GRADIENTS, Defended, Gradient

Start = Literal["clean", "transfer", "surrogate"]


@register
@dataclass(frozen=True, kw_only=True)
class MomentumPGD(Attack):
    """PGD along an exponential mean of raw gradients, of one fresh draw each, with a step that decays along a cosine.

    With N steps: v <- 0.75 v + 0.25 g, x <- proj(x + 0.2231 eps (1 + cos(pi k / N)) / 2 sign(v)); in L2, v / |v| stands
    for its sign, with the same length. The last iterate is returned, and none is chosen by its loss.

    Against EOT (Athalye et al., ICML 2018): N draws in N steps, where EOT spends 20 on each of N. Against MI-FGSM (Dong
    et al., CVPR 2018): the gradients are not divided by their L1 norm, so that a draw counts by the size of its
    gradient, as it does in the gradient of the mean loss; the mean forgets; and the step decays, as averaging over
    steps needs. Against MEFA (arXiv:2605.06357): the same exact gradient, without its 20 draws a step and its
    constant step.

    Attributes:
        steps: gradient steps of one draw each, at least 1.
        loss: "ce", "margin" or "dlr".
        start: "clean", "transfer" (where PGD on the bare classifier ends) or "surrogate" (where this attack ends on
            the defense's surrogate, begun at the transfer image).
        gradient: kind that is followed in place of the threat model's; the defense must have it. None follows the
            threat model's.
        momentum: weight of the older gradients in the mean, in [0, 1).
        first_step: length of the first step, share of epsilon, > 0: Lee & Kim's 0.007 at 8/255.
    """

    title: ClassVar[str] = "momentum PGD"
    source: ClassVar[str] = (
        "this project; after Dong et al., CVPR 2018, arXiv:1710.06081, Eq. 6, with the step of Loshchilov & Hutter, "
        "ICLR 2017, arXiv:1608.03983, Eq. 5, of one period"
    )
    continues: ClassVar[bool] = True

    steps: int = 320
    loss: Loss = "ce"
    start: Start = "clean"
    gradient: Gradient | None = None
    momentum: float = 0.75
    first_step: float = STEP

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, first_step=self.first_step)
        for name, value, known in (
            ("loss", self.loss, get_args(Loss)),
            ("start", self.start, get_args(Start)),
            ("gradient", self.gradient, (None, *GRADIENTS)),
        ):
            if value not in known:
                choice = ", ".join(str(each) for each in known)
                raise ValueError(f"Expected {name} among {choice}, got {value!r}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected momentum in [0, 1), got {self.momentum}.")

    def queries(self) -> tuple[int, int]:
        """One a step, twice as many where the start takes as many on the surrogate."""
        return 0, self.steps * (2 if self.start == "surrogate" else 1)

    def looks(self) -> int:
        """One a step."""
        return self.steps

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
        if self.start == "surrogate":
            first = replace(self, start="transfer", gradient="surrogate")
            x = first.perturb(model, images, labels, image_ids, threat, seed)
        else:
            x = first_iterate(self.start, model, images, labels, image_ids, threat, seed)
        view = model if self.gradient is None else model.with_gradient(self.gradient)
        oracle = Oracle(view, labels, image_ids, seed, loss=self.loss, trace=trace)
        at = MovingMean(x, torch.zeros_like(x))
        for step in resumable(range(self.steps), at):
            answer = oracle.gradient(at.x, step)
            assert answer.gradient is not None
            self._tell(trace, view, oracle, step, answer.loss, answer.correct)
            at.mean = self.momentum * at.mean + (1 - self.momentum) * answer.gradient
            length = self.first_step * threat.epsilon * decay(step, self.steps)
            at.x = threat.project(at.x + length * threat.direction(at.mean), images)
        return at.x

    def _tell(
        self, trace: Trace | None, view: Defended, oracle: Oracle, step: int, loss: Tensor, correct: Tensor
    ) -> None:
        """What the defense answered is a look; what a surrogate or the bare classifier did is not."""
        if trace is None:
            return
        if self.gradient in UNSEEN:
            trace.point(self.name, step, oracle.image_ids, loss, correct)
        else:
            trace.log(self.name, step, oracle.image_ids, loss, correct, draw=step)
