"""Targeted PGD on the mean over a defense's noise: one run for each of the likeliest wrong classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks.apgd_t_eot import TARGETED, likeliest_wrong
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.attacks.cascade import Relabelled
from bench.attacks.losses import targeted_cross_entropy
from bench.attacks.pgd_eot import PGDEOT, Start
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended

LOSSES = {**TARGETED, "ce": targeted_cross_entropy}


@register
@dataclass(frozen=True, kw_only=True)
class PGDTEOT(Attack):
    """Targeted PGD (Kurakin et al., ICLR 2017; Gowal et al., 2019) on the mean over draws (EOT; Athalye et al., 2018).

    The targets of an image are those of `apgd_t_eot`: the wrong classes with the largest mean logits on the clean one.
    Each has a run of `pgd_eot` that raises the targeted loss, with steps of a constant size; the image returned is the
    one with the largest untargeted mean margin among the runs' last, or best, iterates. An untargeted loss follows the
    class that leads at present, whose logit may stop growing inside the ball; a run for another one goes past it.

    Attributes:
        steps: gradient steps of a run, at least 1.
        step_size: length of a step, image units, > 0, as in `pgd_eot`.
        eot: draws that each gradient is averaged over, at least 1; new ones at every step.
        targets: classes that are aimed at, at least 1; at most all wrong ones are.
        loss: "margin", the target's logit minus the true one; "ce", the target's log probability; or "dlr" (needs four
            classes).
        start: "zero", "random", or "zero_then_random" for the first target and the others.
        select: a run's "last" iterate or its "best" one by mean margin.
    """

    title: ClassVar[str] = "PGD-T+EOT"
    source: ClassVar[str] = (
        "Kurakin, Goodfellow & Bengio, ICLR 2017, arXiv:1611.01236, section 2; Gowal et al., 2019, arXiv:1910.09338; "
        "Athalye et al., ICML 2018"
    )
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    step_size: float = 0.007
    eot: int = 20
    targets: int = 9
    loss: Literal["margin", "ce", "dlr"] = "margin"
    start: Start = "random"
    select: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        self._run()  # checks the fields that it shares
        check_positive(targets=self.targets)

    def _run(self) -> PGDEOT:
        """A run for each target, as the restarts of a PGD: each on draws of its own, all compared by their margins."""
        return PGDEOT(
            steps=self.steps, step_size=self.step_size, eot=self.eot, restarts=2, start=self.start, select=self.select
        )

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`: the targets, and the end of each run, cost answers without a gradient."""
        return self.eot * (1 + self.targets), self.steps * self.eot * self.targets

    def looks(self) -> int:
        """See `Attack.looks`."""
        return (self.steps + 1) * self.targets

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
        run, own = self._run(), None if trace is None else Relabelled(trace, self.name)
        run.warn(threat, trace)
        aims = likeliest_wrong(model, images, labels, image_ids, seed, draws=self.eot, classes=self.targets)
        best, best_margin = images, torch.full_like(labels, -torch.inf, dtype=images.dtype)
        for number, aim in enumerate(aims.unbind(1)):
            oracle = Oracle(
                model, labels, image_ids, seed, eot=self.eot, loss=LOSSES[self.loss], trace=own, targets=aim
            )
            x, found = run.ascend(oracle, images, threat, number, own)
            better = found > best_margin
            best = choose(better, x, best)
            best_margin = torch.where(better, found, best_margin)
        return best
