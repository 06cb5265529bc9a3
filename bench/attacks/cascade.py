"""Several attacks in order, cheap ones first: the worst case per image over its members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.attacks._journal import can_continue, remembered
from bench.attacks.base import UNSEEN, Answer, Attack, Oracle, Trace, attacks, check_positive, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import GRADIENTS, Defended, Gradient
from defenses.traits import per_instance

Member = tuple[str, Mapping[str, Any], Gradient | None]
SHORT_PGD = {"steps": 20, "eot": 4}
CONFIRMED = 20  # draws that must agree before an image needs no further attack


@register
@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Worst case per image over attacks run in order on the images not yet settled (after AutoAttack; Croce & Hein,
    ICML 2020, whose single lucky draw settles an image; here none does).

    The clean image is the first candidate, so images that are wrong without an attack cost nothing. A
    member's images are candidates as they are and rounded to 8 bits, which a defense may answer in another way. Per
    image the candidate wrong in most check draws wins, then the one with the largest mean margin; where it is wrong in
    at least half of them, `trace.broken_by` names its member. Check draws count as looks. Batches of a batch-coupled
    defense stay whole until all their images are settled; the result is then either one member's batch or the mixture
    of the winners, whichever is wrong more often.

    Attributes:
        members: (attack name, its fields, gradient kind or None for the threat model's), cheap ones first; a kind must
            be reachable by `Defended.with_gradient`.
        check_draws: selection draws, at least 1, apart from the members' own and the same for all members, on which a
            member's images are compared; one is enough for a deterministic defense.
        settled: share of the check draws, in (0.5, 1], in which a member's image must be wrong, and wrong in the mean
            margin, before it leaves the batch. Fewer than CONFIRMED check draws can be wrong by luck: an image then
            leaves only if that share of others, CONFIRMED with them, is wrong too.
    """

    title: ClassVar[str] = "cascade"
    source: ClassVar[str] = "Worst case over attacks, after Croce & Hein, ICML 2020, arXiv:2003.01690"

    restricted: ClassVar[bool] = per_instance(True, lambda self: all(a.restricted for a in self.made()))
    batch_coupled: ClassVar[bool] = per_instance(False, lambda self: any(a.batch_coupled for a in self.made()))
    gradient_free: ClassVar[bool] = per_instance(False, lambda self: all(a.gradient_free for a in self.made()))
    norms: ClassVar[tuple[Norm, ...]] = per_instance(
        NORMS, lambda self: tuple(norm for norm in NORMS if all(norm in a.norms for a in self.made()))
    )
    continues: ClassVar[bool] = per_instance(True, lambda self: all(can_continue(a) for a in self.made()))
    version: ClassVar[int] = 3

    members: Sequence[Member] = (
        ("pgd_eot", {**SHORT_PGD, "eot": 1}, "transfer"),
        ("pgd_eot", SHORT_PGD, "straight_through"),
        ("pgd_eot", SHORT_PGD, None),
    )
    check_draws: int = 20
    settled: float = 1.0

    def __post_init__(self) -> None:
        check_positive(check_draws=self.check_draws)
        if not 0.5 < self.settled <= 1:
            raise ValueError(f"Expected settled in (0.5, 1], got {self.settled}.")
        object.__setattr__(self, "members", tuple(_member(*member) for member in self.members))
        self.made()  # checks the members' fields

    def __hash__(self) -> int:
        return hash(repr(self))  # the members' fields are dictionaries

    def made(self) -> list[Attack]:
        """The members as attacks."""
        return [attacks.make(name, fields) for name, fields, _ in self.members]

    def labels(self) -> list[str]:
        """One name a member: its attack, @ its gradient kind where given, # its number where the same comes again."""
        seen: Counter[str] = Counter()
        names = []
        for name, _, kind in self.members:
            label = f"{name}@{kind}" if kind else name
            seen[label] += 1
            names.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
        return names

    def representative(self, threat: ThreatModel) -> Attack:
        """The last PGD+EOT member with the threat model's gradient, else the last member."""
        own = [
            a
            for a, (name, _, kind) in zip(self.made(), self.members, strict=True)
            if kind is None and name == "pgd_eot"
        ]
        return own[-1] if own else self.made()[-1]

    def tried(self) -> frozenset[Gradient]:
        """The members' own kinds."""
        return frozenset(kind for _, _, kind in self.members if kind)

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for an image that nothing settles."""
        asked = [attack.queries() for attack in self.made()]
        checks = self.check_draws * (1 + sum(1 + attack.restricted for attack in self.made()))
        return checks + sum(plain for plain, _ in asked), sum(graph for _, graph in asked)

    def looks(self) -> int:
        """Those of the members that look at the defense itself, and the check draws."""
        kinds = [kind for _, _, kind in self.members]
        return max(self.check_draws, CONFIRMED) + sum(
            a.looks() for a, kind in zip(self.made(), kinds, strict=True) if kind not in UNSEEN
        )

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
        check, confirm = (
            Oracle(model, labels, image_ids, seed, eot=draws, role=f"selection:{role}", trace=trace)
            for role, draws in (("cascade", self.check_draws), ("confirm", CONFIRMED - self.check_draws))
        )
        worst = Worst(images, check, confirm if self.check_draws < CONFIRMED else None, self.settled)
        for label, attack, (_, _, kind) in zip(self.labels(), self.made(), self.members, strict=True):
            rows = worst.unsettled()
            if not len(rows):
                break
            if model.batch_coupled:
                rows = torch.arange(len(images), device=images.device)
            view = model if kind is None else model.with_gradient(kind)
            given = threat if kind is None else replace(threat, gradient=kind)
            own = None if trace is None else Relabelled(trace, label, looks=view.gradient not in UNSEEN)
            found = attack.perturb(view, images[rows], labels[rows], image_ids[rows], given, seed, trace=own).detach()
            if attack.restricted:
                worst.offer(label, threat.project(found, images[rows]), rows)
                worst.offer_rounded(label, found, images[rows], rows, threat)
            else:
                worst.offer(label, found, rows)
        if trace is not None:
            trace.broken_by.update(worst.broken_by())
        return worst.images()


class Worst:
    """The worst candidate so far of every image of the batch, on one set of check draws.

    Attributes:
        best: images of the batch, each the worst so far.
        wrong: (batch,) share of the check draws that it gets wrong.
        margin: (batch,) its mean margin over them.
        done: (batch,) whether it needs no further attack.
    """

    def __init__(self, images: Tensor, check: Oracle, confirm: Oracle | None, settled: float) -> None:
        self.check, self.confirm, self.settled = check, confirm, settled
        self.best = images.clone()
        self.done = torch.zeros(images.shape[:1], dtype=torch.bool, device=images.device)
        self.wrong = torch.full(images.shape[:1], -1.0, device=images.device)
        self.margin = torch.full_like(self.wrong, -torch.inf)
        self.member = ["clean"] * len(images)
        self.batches: list[tuple[float, str, Tensor]] = []  # of a batch-coupled defense: candidates as they were
        self.offer("clean", images, torch.arange(len(images), device=images.device))

    def offer(self, member: str, candidates: Tensor, rows: Tensor) -> None:
        """Take a member's images of some rows where they are worse than the best so far."""
        answer = self._ask(self.check, candidates, rows)
        wrong, margin = _wrong(answer), answer.margin.to(self.margin)
        if self.check.model.batch_coupled:
            self.batches.append((float(wrong.mean()), member, candidates.clone()))
        tied = wrong == self.wrong[rows]
        take = ((wrong > self.wrong[rows]) | (tied & (margin > self.margin[rows]))).nonzero().squeeze(1)
        self.best[rows[take]] = candidates[take]
        self.wrong[rows[take]], self.margin[rows[take]] = wrong[take], margin[take]
        for row in rows[take].tolist():
            self.member[row] = member
        self._settle(candidates, rows, take)

    def offer_rounded(self, member: str, found: Tensor, images: Tensor, rows: Tensor, threat: ThreatModel) -> None:
        """Offer as 8-bit pictures, which a defense may answer in another way, those images that are not settled.

        Args:
            member: its name.
            found: (rows, channels, height, width), its images.
            images: the clean ones.
            rows: places in the batch.
            threat: the ball.
        """
        left = torch.ones_like(rows, dtype=torch.bool) if self.check.model.batch_coupled else ~self.done[rows]
        if left.any():
            pictures = threat.round_to_8_bits(found[left], images[left])
            self.offer(f"{member} in 8 bits", pictures, rows[left])

    def _settle(self, candidates: Tensor, rows: Tensor, take: Tensor) -> None:
        """Which of the candidates just taken are wrong often enough that no further attack is needed."""
        fit = take[(self.wrong[rows[take]] >= self.settled) & (self.margin[rows[take]] > 0)]
        if self.confirm is not None and len(fit):
            shown = torch.arange(len(rows), device=rows.device) if self.check.model.batch_coupled else fit
            wrong = torch.zeros(len(rows), device=rows.device)
            wrong[shown] = _wrong(self._ask(self.confirm, candidates[shown], rows[shown])).to(wrong)
            fit = fit[wrong[fit] >= self.settled]
        self.done[rows[fit]] = True

    def _ask(self, oracle: Oracle, candidates: Tensor, rows: Tensor) -> Answer:
        some = oracle.at(rows)
        answer = remembered(lambda: some.evaluate(candidates, 0), Answer, candidates.device)
        if oracle.trace is not None:
            draws = [("confirm" if oracle is self.confirm else "check", draw) for draw in range(oracle.eot)]
            oracle.trace.look(some.image_ids, answer.correct, draws)
        return answer

    def unsettled(self) -> Tensor:
        """Rows that still need an attack."""
        return (~self.done).nonzero().squeeze(1)

    def images(self) -> Tensor:
        """The winners; of a batch-coupled defense the whole batch that is wrong most often."""
        if not self.batches:
            return self.best
        mixture = float(_wrong(self.check.evaluate(self.best, 0)).mean())
        share, _, batch = max(self.batches, key=lambda entry: entry[0])
        return batch if share > mixture else self.best

    def broken_by(self) -> dict[int, str]:
        """Image id -> the member whose image is wrong in at least half of the check draws."""
        ids = self.check.image_ids.tolist()
        return {ids[row]: self.member[row] for row in (self.wrong >= 0.5).nonzero().squeeze(1).tolist()}


def _wrong(answer: Answer) -> Tensor:
    """(batch,) share of draws that misclassify."""
    return (~answer.correct).float().mean(0)


def _member(name: str, fields: Mapping[str, Any] | None = None, gradient: Gradient | None = None) -> Member:
    if gradient is not None and gradient not in GRADIENTS:
        raise ValueError(f"Expected a member's gradient among {', '.join(GRADIENTS)}, got {gradient!r}.")
    return name, dict(fields or {}), gradient


class Relabelled(Trace):
    """Passes what a part of an attack saw on to that attack's trace, under a label of its own.

    Args:
        looks: whether the part looked at the defense itself.
    """

    def __init__(self, parent: Trace, label: str, *, looks: bool = True) -> None:
        super().__init__(notes=parent.notes, of_a_part=True, sees=parent.sees)
        self._parent, self._label, self._counts = parent, label, looks

    def point(self, attack: str, step: int, image_ids: Tensor, loss: Tensor, correct: Tensor) -> None:
        """See `Trace.point`."""
        self._parent.point(self._label, step, image_ids, loss, correct)

    def look(self, image_ids: Tensor, correct: Tensor, draws: Sequence[Hashable]) -> None:
        """See `Trace.look`."""
        if self._counts:
            self._parent.look(image_ids, correct, draws)
