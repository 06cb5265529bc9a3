"""Attack that concentrates on the noise draws that can be broken together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Answer, Attack, NoSuchAttack, Oracle, Trace, check_positive, choose, register
from bench.attacks.cascade import Relabelled
from bench.attacks.losses import Loss, margin
from bench.threat import ThreatModel, check_finite
from defenses.base import Defended
from defenses.noise import Noise


@register
@dataclass(frozen=True, kw_only=True)
class DiffHammer(Attack):
    """DiffHammer (Wang et al., NeurIPS 2024): selective EM weights over draws, gradient grafting, in APGD.

    At each iterate `eot` draws are purified without a graph; l_a and g_a are the classifier's loss and its gradient at
    the a-th purified image. The reference draw is b = argmax_b sum_a elu(l_a + eps d(g_b).g_a) and r starts as g_b,
    with d the steepest direction of the norm; em_steps times, weights w_a = sigmoid(sharpness (l_a + eps d(r).g_a)) and
    r = sum_a w_a g_a / sum_a w_a. Then r is back-propagated through the purification of draw b alone: one exact
    backward pass a step, whatever eot. APGD's schedule follows mean_a elu(l_a), and the image with the largest mean_a
    elu(margin_a) wins: a draw that is far from broken counts no more than -1, so a few hopeless draws do not outweigh
    the others.

    Differs from the authors' code, which never assigns the updated r and leaves eps out of the weights: this follows
    the formulas (docs/methods.md). Draws of a batch-coupled defense are whole batches, so its reference draw is common
    to the batch. A draw is one purification, also where an answer combines several runs.

    Attributes:
        steps: at least 1.
        eot: draws a step, at least 2.
        losses: one restart each. The weights suit losses that are positive where an image is broken ("margin", "dlr");
            with "ce" they are nearly equal.
        em_steps: rounds of reweighting, >= 0.
        sharpness: of the weights, > 0.
        decay: the gradient is averaged over steps with weight (step + 1)**-decay on the new one, >= 0; 0 averages
            nothing.
    """

    title: ClassVar[str] = "DiffHammer"
    source: ClassVar[str] = "Wang et al., DiffHammer, NeurIPS 2024, the paper's formulas"
    continues: ClassVar[bool] = True

    steps: int = 50
    eot: int = 10
    losses: tuple[Loss, ...] = ("margin", "ce", "dlr")
    em_steps: int = 5
    sharpness: float = 5.0
    decay: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", tuple(self.losses))
        check_positive(steps=self.steps, sharpness=self.sharpness, losses=len(self.losses))
        if self.eot < 2 or self.em_steps < 0 or self.decay < 0:
            raise ValueError(
                "Expected eot >= 2, em_steps >= 0 and decay >= 0, got "
                f"{self.eot}, {self.em_steps} and {self.decay}. With one draw use apgd_eot."
            )
        if unknown := set(self.losses) - set(get_args(Loss)):
            raise ValueError(f"Expected losses among {', '.join(get_args(Loss))}, got {', '.join(sorted(unknown))}.")

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for each image."""
        asked = len(self.losses) * (self.steps + 1)
        return asked * self.eot, asked

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
        if type(model).forward is not Defended.forward:
            raise NoSuchAttack(
                f"DiffHammer asks classifier(purify(x)), and {type(model).__name__} answers otherwise. Use apgd_eot."
            )
        own = None if trace is None else Relabelled(trace, self.name)
        best, best_margin = images, torch.full_like(labels, -torch.inf, dtype=images.dtype)
        for restart, loss in enumerate(self.losses):
            hammer = _Hammer(self, threat, model, labels, image_ids, seed, eot=self.eot, loss=loss, trace=own)
            start = threat.random_start(images, hammer.uniform(images, restart))
            climber = APGDEOT(steps=self.steps, eot=self.eot, loss=loss)
            climb = climber.climb(hammer, images, threat, start, query=restart * (self.steps + 1))
            best = choose(climb.margin > best_margin, climb.worst, best)
            best_margin = torch.maximum(climb.margin, best_margin)
        return best


def select(
    losses: Tensor, gradients: Tensor, threat: ThreatModel, *, em_steps: int, sharpness: float, together: bool = False
) -> tuple[Tensor, Tensor]:
    """Reference draw (batch,) and direction r (batch, ...) from losses (draws, batch), gradients (draws, batch, ...).

    With `together`, one reference draw for the whole batch.
    """

    def ahead(direction: Tensor) -> Tensor:
        """(draws, batch) losses expected after a step of length epsilon along the steepest direction."""
        step = threat.epsilon * threat.direction(direction)
        return losses + (step.unsqueeze(0) * gradients).flatten(2).sum(2)

    score = torch.stack([F.elu(ahead(gradient)).sum(0) for gradient in gradients])
    score = score.sum(1, keepdim=True).expand_as(score) if together else score
    chosen = score.argmax(0)
    direction = gradients[chosen, torch.arange(len(chosen), device=chosen.device)]
    for _ in range(em_steps):
        weights = torch.sigmoid(sharpness * ahead(direction)).clamp_min(1e-12)  # all draws far from broken: equal
        weights = (weights / weights.sum(0)).view(*losses.shape, *[1] * (gradients.ndim - 2))
        direction = (weights * gradients).sum(0)
    return chosen, direction


@dataclass
class _Averaged:
    """The mean of the gradients so far, and how many there were."""

    average: Tensor | None = None
    steps: int = 0


class _Hammer(Oracle):
    """An oracle whose gradient is the grafted one, averaged over the steps so far."""

    memory: _Averaged

    def __init__(self, attack: DiffHammer, threat: ThreatModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attack, self.threat = attack, threat
        self.memory = _Averaged()

    def gradient(self, x: Tensor, first: int) -> Answer:
        """See `Oracle.gradient`."""
        answer = super().gradient(x, first)
        assert answer.gradient is not None
        so_far = self.memory
        so_far.steps += 1
        share = so_far.steps**-self.attack.decay
        before = 0.0 if so_far.average is None else so_far.average
        so_far.average = (1 - share) * before + share * answer.gradient
        answer.gradient = so_far.average
        return answer

    def _ask_chunks(self, x: Tensor, first: int, *, gradient: bool) -> Answer:
        if not gradient:
            return super()._ask_chunks(x, first, gradient=False)
        losses, margins, predictions, gradients = self._look(x, first)
        chosen, direction = select(
            losses,
            gradients,
            self.threat,
            em_steps=self.attack.em_steps,
            sharpness=self.attack.sharpness,
            together=self.model.batch_coupled,
        )
        grafted = self._graft(x, first + chosen, direction)
        return Answer(F.elu(losses).mean(0), F.elu(margins).mean(0), predictions, predictions == self.labels, grafted)

    def _look(self, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses, margins, predictions (draws, batch), and the losses' gradients at the purified images."""
        losses, margins = (x.new_zeros(self.eot, len(x)) for _ in range(2))
        predictions, gradients = losses.long(), x.new_zeros(self.eot, *x.shape)
        for draws, rows in self._chunks(len(x), gradient=True):
            count = draws.stop - draws.start
            noise = Noise(self.seed, self.image_ids[rows], first + draws.start).repeat(count)
            labels = self.labels[rows].repeat(count)
            with torch.no_grad():
                purified = self.model.purify(x[rows].repeat(count, *[1] * (x.ndim - 1)), noise)
            purified.requires_grad_()
            logits = self.model.classifier(purified)
            check_finite(logits.detach(), noise.image_ids, "logits")
            loss = self.loss_function(logits, labels)
            gradient = self._differentiate(loss.sum(), purified, noise.image_ids)
            gradients[draws, rows] = gradient.unflatten(0, (count, -1))
            losses[draws, rows] = loss.detach().view(count, -1)
            margins[draws, rows] = margin(logits.detach(), labels).view(count, -1)
            predictions[draws, rows] = logits.argmax(1).view(count, -1)
        return losses, margins, predictions, gradients

    def _graft(self, x: Tensor, draws: Tensor, direction: Tensor) -> Tensor:
        """direction back-propagated through the purification of one draw an image."""
        width = len(x) if self.model.batch_coupled else min(self._limit(len(x), gradient=True), len(x))
        parts = []
        for start in range(0, len(x), width):
            rows = slice(start, start + width)
            part = x[rows].detach().requires_grad_()
            purified = self.model.purify(part, Noise(self.seed, self.image_ids[rows], draws[rows]))
            parts.append(self._differentiate((purified * direction[rows]).sum(), part, self.image_ids[rows]))
        return torch.cat(parts)
