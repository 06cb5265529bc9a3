"""Fixed-AutoAttack: AutoAttack's attacks, each image's flag a share of draws instead of one draw's verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks._journal import remembered, resumable
from bench.attacks._library import QUERIES, Variant, attack_by, check_variant, library_attack
from bench.attacks.base import Answer, Attack, Oracle, Trace, check_positive, choose, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended

MEMBERS: dict[Variant, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
CLEAN = 0  # the number of "no attack" in `Flags.chosen`


@register
@dataclass(frozen=True, kw_only=True)
class FixedAutoAttack(Attack):
    """Fixed-AutoAttack (ADDT's repository, 2024): the AutoAttack library's attacks under another rule of selection.

    An image's flag is the share of `evaluations` fresh draws that are right, of the clean image first. Each attack runs
    on all images whose flag is not 0; where the share at its image is strictly smaller, flag and image are replaced.
    One lucky draw no longer ends an image. The rule reports the mean flag, the smallest of several means on the draws
    that chose it, and biased low: the row's number is the judge's on other draws, the rule's stands in the notes.

    Attributes:
        variant: of the library: "rand" for defenses that draw, or "standard".
        evaluations: draws of a flag, at least 1.
    """

    title: ClassVar[str] = "Fixed-AutoAttack"
    source: ClassVar[str] = "Released code of ADDT (Liu et al., 2024); Croce & Hein, ICML 2020, arXiv:2003.01690"
    batch_coupled: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    variant: Variant = "rand"
    evaluations: int = 20

    def __post_init__(self) -> None:
        check_variant(self.variant)
        check_positive(evaluations=self.evaluations)

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        plain, differentiated = QUERIES[self.variant]
        return plain + self.looks(), differentiated

    def looks(self) -> int:
        """See `Attack.looks`."""
        return self.evaluations * (1 + len(MEMBERS[self.variant]))

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
        oracle = Oracle(model, labels, image_ids, seed, eot=self.evaluations, trace=trace, role="flags")

        def share(rows: Tensor, x: Tensor, number: int) -> Tensor:
            some, first = oracle.at(rows), number * self.evaluations
            correct = remembered(lambda: some.evaluate(x, first), Answer, x.device).correct
            if trace is not None:
                draws = [("flag", number, draw) for draw in range(self.evaluations)]
                trace.look(image_ids[rows], correct, draws)
            return correct.double().mean(0)

        every = torch.arange(len(images), device=images.device)
        flags, found = Flags(share(every, images, CLEAN)), Found(images)
        with library_attack(self.variant, model, images, threat, seed, trace) as library:
            names = MEMBERS[self.variant]
            for place in resumable(range(len(names)), flags, found):
                rows, number = flags.left(), place + 1
                if not len(rows):
                    continue
                library.model.calls = found.calls
                x = attack_by(library, names[place], images[rows], labels[rows])
                found.calls = library.model.calls
                better = flags.offer(rows, share(rows, x, number), number)
                found.best = found.best.index_copy(0, rows, choose(better, x, found.best[rows]))
        if trace is not None:
            trace.notes.append(
                f"Fixed-AutoAttack's own number, on the draws that chose the images (biased low): "
                f"{flags.share.mean():.1%} of {len(images)} images (first image {int(image_ids[0])})."
            )
        return found.best


@dataclass
class Found:
    """What an attack of the library leaves for the next.

    Attributes:
        best: images whose share of right draws is the smallest so far.
        calls: answers that the library has asked for.
    """

    best: Tensor
    calls: int = 0


class Flags:
    """The rule of selection.

    Attributes:
        share: (batch,) float64, smallest share of right draws so far.
        chosen: (batch,) integers, number of the attack whose image has that share, 0 the clean image.
    """

    def __init__(self, clean: Tensor) -> None:
        self.share, self.chosen = clean.clone(), torch.full(clean.shape, CLEAN, device=clean.device)

    def left(self) -> Tensor:
        """Places of the images that the next attack runs on: those with a flag above 0."""
        return (self.share > 0).nonzero().squeeze(1)

    def offer(self, rows: Tensor, share: Tensor, number: int) -> Tensor:
        """Take an attack's shares at these images; booleans where one is strictly smaller than the flag."""
        better = share < self.share[rows]
        self.share[rows] = torch.where(better, share, self.share[rows])
        self.chosen[rows] = torch.where(better, number, self.chosen[rows])
        return better
