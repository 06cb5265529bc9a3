"""Hill, Mitchell and Zhu's BPDA+EOT: averaged logits, and wrong answers verified on many purifications."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Attack, NoSuchAttack, Trace, check_positive, choose, register
from bench.attacks.losses import cross_entropy
from bench.threat import ThreatModel, check_finite
from defenses.base import Defended
from defenses.defended import with_gradient_retried
from defenses.noise import Noise, role_seed


@register
@dataclass(frozen=True, kw_only=True)
class BPDAEOT(Attack):
    """BPDA+EOT (Hill, Mitchell & Zhu, ICLR 2021, arXiv:2005.13525), step by step as in their released code.

    The clean batch and every iterate are looked at in the same way: the logits are averaged over `eot` purifications,
    and an image whose average is wrong is verified by `defense_replicates` fresh ones. If their average is wrong too,
    the image is broken and this iterate, which may be the clean image, is its result; an image that is never broken
    gets the last iterate. Each step follows the gradient of the cross-entropy of the averaged logits, taken at the
    purified images, so that only a straight_through gradient will do; in L2 it is normalised. A batch-coupled defense
    is verified on whole batches, where the authors purify copies of one image.

    Attributes:
        steps: steps from the clean image, at least 1.
        step_size: length of a step, image units, > 0.
        eot: purifications of a look, at least 1.
        defense_replicates: purifications that verify a wrong answer, at least 1.
    """

    title: ClassVar[str] = "BPDA+EOT"
    source: ClassVar[str] = "Hill, Mitchell & Zhu, ICLR 2021, arXiv:2005.13525"
    version: ClassVar[int] = 2  # 1 looked at the clean batch once, and never verified what was wrong there
    continues: ClassVar[bool] = True

    steps: int = 50
    step_size: float = 2 / 255
    eot: int = 15
    defense_replicates: int = 150

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, step_size=self.step_size, eot=self.eot)
        check_positive(defense_replicates=self.defense_replicates)

    def queries(self) -> tuple[int, int]:
        """With one verification an image; an image that stays doubtful takes one a look."""
        return self.eot + self.defense_replicates, (self.steps + 1) * self.eot

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
        """Adversarial images; see `Attack.perturb`. Raises NoSuchAttack for any gradient but straight_through."""
        if not threat.gradient == model.gradient == "straight_through":
            raise NoSuchAttack(
                f"bpda_eot takes the gradient at the purified image, but the threat model says {threat.gradient!r} and "
                f"the defense {model.gradient!r}. Set gradient='straight_through', or use pgd_eot."
            )
        replicates = Replicates(model, labels, image_ids, role_seed(seed, "selection"))
        at = Search(images, images, images, torch.zeros_like(labels, dtype=torch.bool))
        for look in resumable(range(self.steps + 2), at):
            if not at.settled.all():
                self.take(look, at, replicates, images, threat, trace)
        if trace is not None:
            trace.notes.append(f"bpda_eot verified {int(at.settled.sum())} of {len(images)} images as broken")
        return choose(at.settled, at.kept, at.seen)

    def take(
        self, look: int, at: Search, replicates: Replicates, images: Tensor, threat: ThreatModel,
        trace: Trace | None = None,
    ) -> None:  # fmt: skip
        """A look: first at the clean batch without a gradient, then at the steps + 1 iterates, the clean batch first.

        Args:
            look: its number, from 0.
            at: where the search stands; it moves on.
            replicates: the defense.
            images: (batch, channels, height, width), clean.
            threat: the ball.
            trace: receives the look.
        """
        at.seen, labels = at.x, replicates.labels
        first = look * (self.eot + self.defense_replicates)
        if look == 0:
            with torch.no_grad():
                logits = replicates.logits(at.seen, first, self.eot)
        else:
            logits, gradient = replicates.gradient(at.seen, first, self.eot)
            at.x = threat.project(at.seen + self.step_size * threat.direction(gradient), images)
        if trace is not None:
            loss = cross_entropy(logits.mean(0), labels)
            trace.log(self.name, look, replicates.image_ids, loss, logits.argmax(2) == labels, draw=first)
        doubtful = ~at.settled & (logits.mean(0).argmax(1) != labels)
        broken = doubtful & replicates.wrong(at.seen, doubtful, first + self.eot, self.defense_replicates, self.eot)
        at.kept = choose(broken, at.seen, at.kept)
        at.settled = at.settled | broken


@dataclass
class Search:
    """Where BPDA+EOT stands.

    Attributes:
        x: (batch, channels, height, width), what is looked at next.
        seen: what was looked at last.
        kept: the iterate that broke each image.
        settled: (batch,) booleans, the images that are broken.
    """

    x: Tensor
    seen: Tensor
    kept: Tensor
    settled: Tensor


@dataclass(frozen=True)
class Replicates:
    """Many purifications of each image: a defense's answers as (draws, batch, classes) logits.

    Every method takes the number of its `first` draw.

    Attributes:
        model: the defended classifier.
        labels: (batch,) integers.
        image_ids: (batch,) integers.
        seed: of the draws.
    """

    model: Defended
    labels: Tensor
    image_ids: Tensor
    seed: int

    def logits(self, x: Tensor, first: int, count: int) -> Tensor:
        """(count, batch, classes) logits on the draws from `first`."""
        noise = Noise(self.seed, self.image_ids, first).repeat(count)
        logits = self.model(x.repeat(count, *[1] * (x.ndim - 1)), noise).unflatten(0, (count, len(x)))
        check_finite(logits.detach().transpose(0, 1), self.image_ids, "logits")
        return logits

    def gradient(self, x: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
        """The logits, and the gradient with respect to x of the cross-entropy of their mean over the draws."""

        def ask() -> tuple[Tensor, Tensor]:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.logits(leaf, first, count)
                (gradient,) = torch.autograd.grad(cross_entropy(logits.mean(0), self.labels).sum(), leaf)
            return logits.detach(), gradient

        logits, gradient = with_gradient_retried(self.model, ask, x, count * len(x))
        check_finite(gradient, self.image_ids, "gradients")
        return logits, gradient

    @torch.no_grad()
    def wrong(self, x: Tensor, rows: Tensor, first: int, count: int, together: int) -> Tensor:
        """(batch,) where the mean of `count` logits is wrong.

        Args:
            x: (batch, channels, height, width).
            rows: (batch,) booleans; only these are asked.
            first: number of the first draw.
            count: number of draws.
            together: draws of the whole batch that fit into one pass.
        """
        verdict = torch.zeros_like(rows)
        if not rows.any():
            return verdict
        if self.model.batch_coupled:
            rows = torch.ones_like(rows)
        some = replace(self, labels=self.labels[rows], image_ids=self.image_ids[rows])
        draws = max(1, together * len(x) // len(some.labels))
        sums = [some.logits(x[rows], first + d, min(draws, count - d)).sum(0) for d in range(0, count, draws)]
        verdict[rows] = torch.stack(sums).sum(0).argmax(1) != some.labels
        return verdict
