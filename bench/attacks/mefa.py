"""The attack of the MEFA protocol: gradients of the cross-entropy of mean logits, last iterate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.apgd_eot import checkpoints
from bench.attacks.base import Answer, Attack, Oracle, Trace, check_finite, check_positive, choose, register
from bench.attacks.losses import margin
from bench.threat import Norm, ThreatModel
from defenses.base import Defended
from defenses.noise import Noise
from defenses.traits import per_instance

JUDGED = (1, 30, 50, 100)  # draws of the protocol's own judge, which reads mean logits


@register
@dataclass(frozen=True, kw_only=True)
class MEFA(Attack):
    """MEFA's attack loops (arXiv 2605.06357), for parity. The loss is the cross-entropy of the mean logits.

    PGD looks at the clean image, then `steps` + 1 times at an iterate, and returns the last iterate: nothing stops
    early and no best iterate is kept. APGD (Linf only: the released L2 form moves nothing) returns the image one step
    after the last look that was wrong, or the clean image. The row's number is the judge's, of single fresh draws; the
    protocol's own, of mean logits over 1, 30, 50 and 100 fresh draws, are in the row's notes.

    Attributes:
        steps: at least 1; PGD takes so many updates, APGD one more.
        step_size: image units, > 0; of PGD. APGD begins at twice epsilon.
        eot: draws whose logits are averaged, at least 1.
        method: "pgd" or "apgd".
    """

    title: ClassVar[str] = "MEFA"
    source: ClassVar[str] = "arXiv:2605.06357, section on the evaluation protocol, and its released code"
    continues: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = per_instance(
        ("Linf", "L2"), lambda self: ("Linf", "L2") if self.method == "pgd" else ("Linf",)
    )

    steps: int = 100
    step_size: float = 2 / 255
    eot: int = 20
    method: Literal["pgd", "apgd"] = "pgd"

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, step_size=self.step_size, eot=self.eot)
        if self.method not in ("pgd", "apgd"):
            raise ValueError(f"Expected method among pgd, apgd, got {self.method!r}.")

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`; the protocol's own judge among them."""
        judged, updates = 2 * sum(JUDGED), self.steps + (self.method == "apgd")
        return judged + (2 if self.method == "pgd" else 1) * self.eot, updates * self.eot

    def looks(self) -> int:
        """See `Attack.looks`."""
        return self.steps + 2

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
        """Adversarial images; see `Attack.perturb`. Raises ValueError for APGD in any norm but Linf."""
        if self.method == "apgd" and threat.norm != "Linf":
            raise ValueError(f"MEFA's APGD attacks in norm Linf, got {threat.norm}. Use method='pgd' or apgd_eot.")
        oracle = MeanLogits(model, labels, image_ids, seed, eot=self.eot, trace=trace)
        ascend = self._pgd if self.method == "pgd" else self._apgd
        x = ascend(oracle, images, threat)
        if trace is not None:
            trace.notes += [self._own_number(model, labels, image_ids, seed, images, x)]
        return x

    def _look(self, oracle: Oracle, x: Tensor, look: int, *, gradient: bool) -> Answer:
        answer = (oracle.gradient if gradient else oracle.evaluate)(x, look * self.eot)
        if oracle.trace is not None:
            draw = look * self.eot
            oracle.trace.log(self.name, look, oracle.image_ids, answer.loss, answer.correct, draw=draw)
        return answer

    def _pgd(self, oracle: Oracle, images: Tensor, threat: ThreatModel) -> Tensor:
        at = _Iterate(images)
        for look in resumable(range(self.steps + 2), at):  # the clean image, then the iterates, the clean image first
            moves = 0 < look <= self.steps
            answer = self._look(oracle, at.x, look, gradient=moves)
            if moves:
                at.x = threat.project(at.x + self.step_size * threat.direction(_gradient(answer)), images)
        return at.x

    def _apgd(self, oracle: Oracle, images: Tensor, threat: ThreatModel) -> Tensor:
        first = self._look(oracle, images, 0, gradient=False).loss
        size = torch.full_like(first, 2 * threat.epsilon).view(-1, *[1] * (images.ndim - 1))
        losses = first.new_zeros(self.steps + 2, len(first))  # the released record begins with a zero
        at = _Climb(images, images, images, images, first, first, losses, size, torch.ones_like(first).bool())
        windows = checkpoints(self.steps + 1, self.steps)
        for step in resumable(range(1, self.steps + 2), at):
            answer = self._look(oracle, at.x, step, gradient=True)
            target = threat.project(at.x + at.size * threat.direction(_gradient(answer)), images)
            share = 0.75 if step > 1 else 1.0
            moved = threat.project(at.x + share * (target - at.x) + (1 - share) * (at.x - at.previous), images)
            at.previous, at.x = at.x, moved
            at.final = choose(answer.margin > 0, at.x, at.final)
            at.best = choose(answer.loss > at.best_loss, at.x, at.best)  # as released: the image after the update
            at.best_loss = torch.maximum(answer.loss, at.best_loss)
            at.losses[step] = answer.loss
            if step in windows:
                last = at.losses[max(0, step - windows[step]) : step + 1]
                rises = (last[1:] > last[:-1]).sum(0)
                at.halved = (rises <= 0.75 * windows[step]) | (~at.halved & (at.checked >= at.best_loss))
                at.size, at.x = choose(at.halved, at.size / 2, at.size), choose(at.halved, at.best, at.x)
                at.checked = at.best_loss
        return at.final

    def _own_number(
        self, model: Defended, labels: Tensor, image_ids: Tensor, seed: int, images: Tensor, x: Tensor
    ) -> str:
        """The protocol's own reading of a batch, on draws of its own."""
        said = []
        for words, asked in (("clean", images), ("attacked", x)):
            rights = []
            for draws in JUDGED:
                judge = MeanLogits(model, labels, image_ids, seed, eot=draws, role="mefa judge")
                rights.append(int((judge.evaluate(asked, sum(JUDGED[: JUDGED.index(draws)])).margin < 0).sum()))
            said.append(f"{words} {', '.join(map(str, rights))}")
        draws_text = ", ".join(map(str, JUDGED))
        return (
            f"MEFA's own judge, mean logits over {draws_text} draws, finds right of {len(labels)} images: "
            f"{'; '.join(said)} (first image {int(image_ids[0])})."
        )


@dataclass
class _Iterate:
    """Where PGD stands: the image (batch, channels, height, width) that is looked at next."""

    x: Tensor


@dataclass
class _Climb:
    """Where APGD stands; images are (batch, channels, height, width).

    Attributes:
        x: looked at next.
        previous: the iterate before it.
        best: the image after the step that found the largest loss.
        final: the image after the last step that found a wrong answer.
        best_loss: (batch,), the largest so far.
        checked: (batch,), the largest at the last check of the step sizes.
        losses: (steps + 2, batch), of each look.
        size: (batch, 1, 1, 1), step sizes, image units.
        halved: (batch,) booleans, whether the last check halved the step.
    """

    x: Tensor
    previous: Tensor
    best: Tensor
    final: Tensor
    best_loss: Tensor
    checked: Tensor
    losses: Tensor
    size: Tensor
    halved: Tensor


class MeanLogits(Oracle):
    """An oracle whose loss and margin are those of an image's mean logits over the draws; see `Oracle`."""

    def _chunks(self, batch: int, *, gradient: bool) -> Iterator[tuple[slice, slice]]:
        """All draws of an image in one pass, as many images as fit; the defense cuts what is still too much."""
        width = batch if self.model.batch_coupled else max(1, self._limit(batch, gradient=gradient) // self.eot)
        for image in range(0, batch, width):
            yield slice(0, self.eot), slice(image, min(image + width, batch))

    def _ask_chunks(self, x: Tensor, first: int, *, gradient: bool) -> Answer:
        losses, margins = torch.zeros_like(x.flatten(1)[:, 0]), torch.zeros_like(x.flatten(1)[:, 0])
        predictions = torch.empty((self.eot, len(x)), dtype=torch.int64, device=x.device)
        total = torch.zeros_like(x) if gradient else None
        for _, rows in self._chunks(len(x), gradient=gradient):
            part, labels = x[rows].detach().requires_grad_(gradient), self.labels[rows]
            noise = Noise(self.seed, self.image_ids[rows], first).repeat(self.eot)
            with torch.set_grad_enabled(gradient):
                logits = self.model(part.repeat(self.eot, *[1] * (x.ndim - 1)), noise).unflatten(0, (self.eot, -1))
                mean = logits.mean(0)
                loss = self.loss_function(mean, labels)
            check_finite(mean.detach(), self.image_ids[rows], "logits")
            if total is not None:
                # the released gradient is a mean over copies, each of which carries 1 / draws already
                total[rows] = self._differentiate(loss.sum() / self.eot, part, self.image_ids[rows])
            losses[rows], margins[rows] = loss.detach(), margin(mean.detach(), labels)
            predictions[:, rows] = logits.detach().argmax(2)
        return Answer(losses, margins, predictions, predictions == self.labels, total)


def _gradient(answer: Answer) -> Tensor:
    assert answer.gradient is not None
    return answer.gradient
