"""Targeted Auto-PGD and PGD on the mean over a defense's noise: one run for each of the likeliest wrong classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.attacks.losses import targeted_dlr, targeted_margin
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended
from defenses.noise import Noise, role_seed

TARGETED = {"dlr": targeted_dlr, "margin": targeted_margin}


@register
@dataclass(frozen=True, kw_only=True)
class APGDTEOT(Attack):
    """APGD-T (Croce & Hein, ICML 2020, section 4.3) on the mean over draws (EOT; Athalye et al., ICML 2018).

    The targets of an image are the wrong classes with the largest mean logits on the clean image, the likeliest first.
    Each has a run of `apgd_eot` from a random start with the targeted loss; the image returned is the one with the
    largest untargeted mean margin over all iterates of all runs.

    Attributes:
        steps: gradient steps of a run, at least 1.
        eot: draws that each gradient is averaged over, at least 1; new ones at every step.
        targets: classes that are aimed at, at least 1; at most all wrong ones are.
        loss: "dlr" (needs four classes) or "margin", the target's logit minus the true one.
    """

    title: ClassVar[str] = "APGD-T+EOT"
    source: ClassVar[str] = (
        "Croce & Hein, ICML 2020, arXiv:2003.01690, section 4.3 and Eq. 7; L1: ICML 2021, arXiv:2103.01208; Athalye et "
        "al., ICML 2018"
    )
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    eot: int = 20
    targets: int = 9
    loss: Literal["dlr", "margin"] = "dlr"

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, eot=self.eot, targets=self.targets)
        if self.loss not in TARGETED:
            raise ValueError(f"Expected loss among {', '.join(TARGETED)}, got {self.loss!r}.")

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return self.eot, (self.steps + 1) * self.eot * self.targets

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
        run = APGDEOT(steps=self.steps, eot=self.eot)
        aims = likeliest_wrong(model, images, labels, image_ids, seed, draws=self.eot, classes=self.targets)
        best, best_margin = images, torch.full_like(labels, -torch.inf, dtype=images.dtype)
        for number, aim in enumerate(aims.unbind(1)):
            oracle = Oracle(
                model, labels, image_ids, seed, eot=self.eot, loss=TARGETED[self.loss], trace=trace, targets=aim
            )
            start = run.start(oracle, images, threat, number)
            climb = run.climb(oracle, images, threat, start, query=number * (self.steps + 1), name=self.name)
            best = choose(climb.margin > best_margin, climb.worst, best)
            best_margin = torch.maximum(climb.margin, best_margin)
        return best


def likeliest_wrong(
    model: Defended, images: Tensor, labels: Tensor, image_ids: Tensor, seed: int, *, draws: int, classes: int
) -> Tensor:
    """(batch, at most `classes`) wrong classes by their mean logits on the clean image, the likeliest first.

    Args:
        model: the defended classifier.
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,) integers.
        image_ids: (batch,) integers.
        seed: of the attack; the draws follow from it and are no other query's.
        draws: of the mean, at least 1.
        classes: how many.
    """
    draws_seed, mean = role_seed(seed, "targets"), torch.zeros((), device=images.device)
    with torch.no_grad():
        for draw in range(draws):
            mean = mean + model(images, Noise(draws_seed, image_ids, draw)) / draws
    others = mean.scatter(1, labels.unsqueeze(1), -torch.inf)
    return others.argsort(1, descending=True)[:, : min(classes, mean.shape[1] - 1)]
