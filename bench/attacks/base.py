"""What an attack is, how it asks a stochastic defense for gradients, and what it remembers on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, overload

import torch
from torch import Tensor

from bench.attacks.losses import LOSSES, Loss, margin
from bench.threat import Norm, ThreatModel, check_finite
from defenses.base import Defended, Gradient
from defenses.declared import check_class
from defenses.field_types import TypedFields
from defenses.noise import Noise, role_seed
from defenses.plugins import adopt_class, welcome
from defenses.registry import ClassRegistry, plain_fields
from defenses.rows import FEW, MANY, retried

A = TypeVar("A", bound="Attack")
attacks: ClassRegistry[Attack] = ClassRegistry("attack", "bench.attacks")
CONTROLS = ("clean", "noise", "transfer")  # they do not ask the defense
JUDGE_ROWS = 1024  # rows that a judge asks about in one pass: memory, not numbers
UNSEEN: frozenset[Gradient | None] = frozenset({"transfer", "surrogate"})
"""Kinds of gradient under which an attack looks at something else than the defense."""


class NoSuchAttack(ValueError):
    """An attack that has no such kind of gradient, or a defense that gives none of it."""

    remedy = "`bench list attacks NAME` and `bench list defenses NAME` say which kinds of gradient there are."


@overload
def register(cls: type[A], /) -> type[A]: ...


@overload
def register(cls: str | None = None, /) -> Callable[[type[A]], type[A]]: ...


def register(cls: type[A] | str | None = None, /) -> Any:
    """Class decorator: put an attack into the registry, under the stem of its file or a name: @register("my_name").

    Args:
        cls: the class, or the name.

    Raises:
        ValueError: the class is no complete frozen dataclass of `Attack`, or the name is taken or none.
    """
    if cls is None or isinstance(cls, str):
        return lambda named: _register(named, cls)
    return _register(cls, None)


def _register(cls: type[A], name: str | None) -> type[A]:
    check_class(cls, Attack, "attack")
    attacks.register(cls, name)
    return cls


welcome(attacks, "attacks", adopt_class(attacks, register))


@dataclass(frozen=True, kw_only=True)
class Attack(TypedFields, ABC):
    """An attack and its settings (its fields). Abstract: concrete attacks are final frozen dataclasses.

    A field holds plain data of its annotated type: see `defenses.field_types`.

    Class attributes:
        name: registered name; `@register` sets it.
        title: what tables call it; the name with spaces where nothing is given.
        source: citation, with equation or algorithm.
        restricted: whether its images stay in the ball of the threat model.
        batch_coupled: whether the result for an image depends on its batch (a library's own random stream); the batch
            size is then part of a cell's key.
        gradient_free: whether it never asks for a gradient.
        norms: of the balls that it attacks in; a cell in another one is refused.
        given: whether its images come from elsewhere, so that no validity gate can vary it.
        continues: whether it goes on from a saved step: its loops are `resumable`, and nothing of it lies elsewhere.
        version: raised when a change of code moves its numbers.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    restricted: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = False
    gradient_free: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")
    given: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def params(self) -> dict[str, Any]:
        """The fields as plain data, defaults included; `attacks.make(name, params)` is the inverse."""
        return plain_fields(self)

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) asked for each image, at most."""
        fields = self.params()
        asked = fields.get("steps", 0) * fields.get("eot", 1) * fields.get("restarts", 1)
        return (asked, 0) if self.gradient_free else (0, asked)

    def usual_queries(self) -> tuple[float, float]:
        """As `queries`, of a usual image where most images need far less than the most: the forecast's basis."""
        return self.queries()

    def looks(self) -> int:
        """Draws looked at for each image (see `Trace`), at most: the judge asks a stochastic defense as often on the
        clean one."""
        return sum(self.queries()) // self.params().get("eot", 1)

    def usual_looks(self) -> int:
        """As `looks`, of a usual image."""
        return self.looks()

    def tried(self) -> frozenset[Gradient]:
        """Kinds of gradient that it asks for beside the threat model's: gates that ask again would find nothing new."""
        return frozenset()

    def representative(self, threat: ThreatModel) -> Attack:
        """The attack that validity gates vary: this one, or its strongest part where the whole is dear."""
        return self

    @abstractmethod
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
        """Adversarial images of the shape of `images`.

        Args:
            model: the defended classifier.
            images: (batch, channels, height, width) in [0, 1].
            labels: (batch,) integers.
            image_ids: (batch,) integers, places in the data set.
            threat: ball and kind of gradient.
            seed: every selection draw follows from it, and from the image's id: the result for an image does not depend
                on its batch unless `batch_coupled`.
            trace: receives loss and accuracy per step.
        """


@dataclass
class Trace:
    """What an attack saw on its way: a convergence curve, and whether any single look at an image was wrong.

    A look is one answer of the defense at one iterate (the step's first draw). First-success robustness
    (DiffBreak, 2025) counts an image as broken at the first wrong look; the judge prices the looks themselves on the
    clean image. `looks` counts the draws behind them: another look with the same draw gives luck no other chance.

    Attributes:
        looks: image id -> draws that were looked at.
        survived: image id -> whether every look was right.
        broken_by: image id -> the member of a cascade that broke it.
        notes: what a reader of the number must know.
        sees: whether the steps that are logged answer as the judge hears it; in low precision they are no looks.
        of_a_part: whether it belongs to one of several attacks behind a number.
    """

    looks: dict[int, int] = field(default_factory=dict)
    survived: dict[int, bool] = field(default_factory=dict)
    broken_by: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sees: bool = True
    of_a_part: bool = False
    _sums: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    _draws: dict[int, set[Hashable]] = field(default_factory=dict)

    def log(
        self, attack: str, step: int, image_ids: Tensor, loss: Tensor, correct: Tensor, *, draw: Hashable = None
    ) -> None:
        """One step.

        Args:
            attack: label of the attack.
            step: its number.
            image_ids: (batch,) integers.
            loss: (batch,) EOT means.
            correct: (draws, batch) booleans; the first row is the look.
            draw: which selection draw that was; by default one that no other step used.
        """
        self.point(attack, step, image_ids, loss, correct)
        if self.sees:
            self.look(image_ids, correct[:1], [(attack, step) if draw is None else draw])

    def point(self, attack: str, step: int, image_ids: Tensor, loss: Tensor, correct: Tensor) -> None:
        """A point of the convergence curve."""
        entry = self._sums.setdefault((attack, step), [0.0, 0.0, 0.0])
        entry[0] += float(loss.sum())
        entry[1] += float(correct.double().mean(0).sum())
        entry[2] += len(image_ids)

    def look(self, image_ids: Tensor, correct: Tensor, draws: Sequence[Hashable]) -> None:
        """Looks at images.

        Args:
            image_ids: (batch,) integers.
            correct: (looks, batch) booleans.
            draws: which selection draw each look was.
        """
        for image, right in zip(image_ids.tolist(), correct.all(0).tolist(), strict=True):
            seen = self._draws.setdefault(image, set())
            seen.update(draws)
            self.looks[image] = len(seen)
            self.survived[image] = self.survived.get(image, True) and right

    def curve(self) -> list[dict[str, Any]]:
        """[{attack, step, loss, accuracy, images}]: means over the images logged at that step."""
        return [
            {"attack": a, "step": s, "loss": loss / n, "accuracy": right / n, "images": int(n)}
            for (a, s), (loss, right, n) in sorted(self._sums.items())
        ]


@dataclass
class Answer:
    """What one EOT query found: mean loss and margin (batch,), predicted labels and their correctness (draws, batch).

    A positive margin is a misclassification.
    """

    loss: Tensor
    margin: Tensor
    predictions: Tensor
    correct: Tensor
    gradient: Tensor | None = None


class Oracle:
    """Asks a defense for EOT-averaged losses and gradients (Athalye et al., ICML 2018), all draws in one batch.

    The d-th query draws [first, first + eot) of the stream of selection draws, which no judge ever uses. When memory
    runs out the batch of draws is halved (then the images, unless the defense is batch-coupled) and the trace says so.

    Args:
        model: the defended classifier.
        labels: (batch,) integers.
        image_ids: (batch,) integers.
        seed: of the attack; the draws follow from it and from `role`.
        eot: draws a query, at least 1.
        loss: what is averaged and differentiated: a name of `LOSSES` or (logits, labels) -> (batch,).
        trace: is told when memory runs out.
        role: keeps the draws of several askers apart.
        rows: rows a pass; None is all draws of the batch.
        targets: (batch,) classes that the loss gets as a third argument; None is a loss of two.
    """

    def __init__(
        self,
        model: Defended,
        labels: Tensor,
        image_ids: Tensor,
        seed: int,
        *,
        eot: int = 1,
        loss: Loss | Callable[..., Tensor] = "ce",
        trace: Trace | None = None,
        role: str = "selection",
        rows: int | None = None,
        targets: Tensor | None = None,
    ) -> None:
        self.model, self.labels, self.image_ids, self.eot, self.trace = model, labels, image_ids, eot, trace
        self.loss_function = LOSSES[loss] if isinstance(loss, str) else loss
        self.seed = role_seed(seed, role)
        self._rows, self.targets = rows, targets
        self.memory: object | None = None  # what the next answers depend on beside x, for a journal

    def gradient(self, x: Tensor, first: int) -> Answer:
        """Mean loss, margin, correctness, and the gradient of the mean loss with respect to x (batch, ...)."""
        return self._ask(x, first, gradient=True)

    def evaluate(self, x: Tensor, first: int) -> Answer:
        """As `gradient`, of the real defense and without a gradient."""
        return self._ask(x, first, gradient=False)

    def uniform(self, like: Tensor, restart: int) -> Tensor:
        """Uniforms in [0, 1) for a random start, per image."""
        return Noise(role_seed(self.seed, "start"), self.image_ids, restart).uniform(like, step=0)

    def at(self, rows: Tensor) -> Oracle:
        """The same oracle for some images of the batch (boolean mask or indices)."""
        other = Oracle.__new__(Oracle)
        other.__dict__.update(self.__dict__)
        other.labels, other.image_ids = self.labels[rows], self.image_ids[rows]
        other.targets = None if self.targets is None else self.targets[rows]
        return other

    def _ask(self, x: Tensor, first: int, *, gradient: bool) -> Answer:
        known = self.model.rows_at_once
        few = min(len(x), FEW)
        if not self.model.batch_coupled and self.eot * len(x) > MANY:
            known.measure(x.device, lambda: self._ask_few(x[:few], first, gradient=gradient), few, gradient=gradient)

        def ask() -> Answer:
            with self.model.in_chunks(x, lambda: Noise(self.seed, self.image_ids, first)):
                return self._ask_chunks(x, first, gradient=gradient)

        def back_off() -> bool:
            return self.model.back_off(self._limit(len(x), gradient=gradient), len(x), gradient=gradient)

        found = retried(ask, back_off)
        if self.trace is not None:
            self.trace.notes += known.take_notes()
        return found

    def _ask_few(self, x: Tensor, first: int, *, gradient: bool) -> None:
        """One draw of the first images, of which nobody needs the answer."""
        some = self.at(torch.arange(len(x), device=x.device))
        some.eot = 1
        Oracle._ask_chunks(some, x, first, gradient=gradient)

    def _limit(self, batch: int, *, gradient: bool) -> int:
        """Rows of a pass."""
        asked = (self._rows or self.eot * batch, self.model.rows_at_once.most(gradient=gradient))
        return min(rows for rows in asked if rows is not None)

    def _ask_chunks(self, x: Tensor, first: int, *, gradient: bool) -> Answer:
        losses, margins = (torch.zeros(len(x), device=x.device, dtype=x.dtype) for _ in range(2))
        predictions = torch.empty((self.eot, len(x)), dtype=torch.int64, device=x.device)
        total = torch.zeros_like(x) if gradient else None
        for draws, rows in self._chunks(len(x), gradient=gradient):
            part = x[rows].detach().requires_grad_(gradient)
            count = draws.stop - draws.start
            noise = Noise(self.seed, self.image_ids[rows], first + draws.start).repeat(count)
            with torch.set_grad_enabled(gradient):
                logits = self.model(part.repeat(count, *[1] * (x.ndim - 1)), noise)
                labels = self.labels[rows].repeat(count)
                aims = () if self.targets is None else (self.targets[rows].repeat(count),)
                loss = self.loss_function(logits, labels, *aims)
            check_finite(logits.detach(), noise.image_ids, "logits")
            if total is not None:
                total[rows] += self._differentiate(loss.sum() / self.eot, part, self.image_ids[rows])
            losses[rows] += loss.detach().view(count, -1).sum(0) / self.eot
            margins[rows] += margin(logits.detach(), labels).view(count, -1).sum(0) / self.eot
            predictions[draws, rows] = logits.argmax(1).view(count, -1)
        return Answer(losses, margins, predictions, predictions == self.labels, total)

    def _chunks(self, batch: int, *, gradient: bool) -> Iterator[tuple[slice, slice]]:
        """(draws, images) that fit into one pass: many draws of the whole batch, else parts of one draw."""
        rows = self._limit(batch, gradient=gradient)
        if self.model.batch_coupled:
            rows = max(rows, batch)
        together = max(1, rows // batch)
        width = batch if rows >= batch else rows
        for draw in range(0, self.eot, together):
            for image in range(0, batch, width):
                yield slice(draw, min(draw + together, self.eot)), slice(image, min(image + width, batch))

    def _differentiate(self, loss: Tensor, x: Tensor, image_ids: Tensor) -> Tensor:
        if not loss.requires_grad:
            raise NoSuchAttack(
                f"The defense gives no gradient under gradient={self.model.gradient!r}. "
                "Use square_eot or transfer, or another gradient kind."
            )
        (gradient,) = torch.autograd.grad(loss, x)
        check_finite(gradient, image_ids, "gradients")
        return gradient


def check_norm(attack: Attack, norm: Norm) -> None:
    """Raise ValueError where an attack is not made for balls of a norm; it names those that are."""
    if norm in attack.norms:
        return
    able = {name: cls for name in attacks if norm in (cls := attacks[name]).norms and name not in CONTROLS}
    others = [name for name, cls in able.items() if cls.restricted]
    raise ValueError(
        f"{attack.name} attacks in {', '.join(attack.norms)}, got norm {norm}. Use one of {', '.join(others)}."
    )


def choose(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` (batch, ...) for the images where `rows` (batch,) holds, `no` for the others."""
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)


def check_positive(**fields: float) -> None:
    """Raise ValueError for a field that is not greater than zero."""
    for name, value in fields.items():
        if not value > 0:
            raise ValueError(f"Expected {name} > 0, got {value}.")
