"""The strong protocol that is run by default: a handful of attacks of one draw a step, longer where that still wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks._ascent import STEP, TRANSFER_STEPS
from bench.attacks._doubling import Batch, Member
from bench.attacks._short import at_most
from bench.attacks.base import UNSEEN, Attack, NoSuchAttack, Trace, check_positive, register
from bench.attacks.cascade import CONFIRMED
from bench.attacks.momentum_pgd import MomentumPGD
from bench.attacks.nes_eot import NESEOT
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient

NES = {"steps": 40, "samples": 10}
USUAL, USUAL_OTHERS = (0.95, 0.9, 0.1, 0.02), 0.15  # shares of images that a length, or the others, attack
LITTLE = 0.1  # share of the check draws that gradients must gain on an image, else others try


@register
@dataclass(frozen=True, kw_only=True)
class Strong(Attack):
    """Members that take one fresh draw a step (`momentum_pgd`), at lengths that double; worst case per image.

    First PGD on the bare classifier, with cross-entropy and with the margin, then a run on the defense's surrogate;
    then, from the clean image with cross-entropy and from the transfer image with the margin loss, runs of `first` and
    of twice as many steps, on other draws: these decide which of several optima a run finds. An image goes on to a
    further doubling where the last one gained on it: more check draws are wrong, or, while all are right, its mean
    margin came a tenth closer to zero. Where gradients gained less than a tenth of the check draws over the bare
    classifier's images, straight-through and a search without gradients try too.
    Where the defense has guidance, runs hold it constant as well; all of them if its answers depend on the batch.

    Images of the bare classifier's attacks and of the first length, and the worst of all, are tried rounded to 8 bits
    as well. Images are compared, and leave, as in `Cascade`; a deterministic defense is asked once, as no draw differs.
    A batch of a batch-coupled defense stays whole and goes on while a doubling wins a point. The trace's curve holds
    the accuracy on the check draws after each length: what the last doubling won says whether the lengths sufficed.

    Attributes:
        first: steps of the first length, at least 1.
        longest: no run is longer; first times a power of two, at least twice.
        check_draws: see `Cascade`.
        settled: see `Cascade`.
    """

    title: ClassVar[str] = "strong"
    source: ClassVar[str] = "this project: see momentum_pgd, nes_eot and cascade"
    continues: ClassVar[bool] = True

    first: int = 80
    longest: int = 640
    check_draws: int = 20
    settled: float = 1.0

    def __post_init__(self) -> None:
        check_positive(first=self.first, check_draws=self.check_draws)
        if self.longest not in (self.first * 2**k for k in range(1, 20)):
            raise ValueError(f"Expected longest = first times 2, 4, 8, ..., got first={self.first}, {self.longest}.")
        if not 0.5 < self.settled <= 1:
            raise ValueError(f"Expected settled in (0.5, 1], got {self.settled}.")

    @property
    def lengths(self) -> list[int]:
        """Steps of the successive runs."""
        return [n for n in (self.first * 2**k for k in range(20)) if n <= self.longest]

    def representative(self, threat: ThreatModel) -> Attack:
        """The margin run at four times the first length."""
        return MomentumPGD(steps=min(4 * self.first, self.longest), loss="margin", start="transfer")

    def tried(self) -> frozenset[Gradient]:
        """Those of the members that every image meets."""
        return frozenset(("transfer", "surrogate"))

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for an image that nothing settles and every doubling helps."""
        runs = [*bare(), *self._surrogate(), *self._without_gradients(), *self._runs_at_most()]
        asked = [attack.queries() for _, attack, kind in runs if kind != "transfer"]
        checks = self.check_draws * (2 + len(runs) + 6)  # the clean image and the worst rounded, six members rounded
        return checks + sum(plain for plain, _ in asked), sum(graph for _, graph in asked)

    def usual_queries(self) -> tuple[float, float]:
        """With the shares of images that need each length on digits behind DiffPure (docs/attacks.md)."""
        shares = [*USUAL, *[USUAL[-1]] * len(self.lengths)]
        runs = sum(2 * share * steps for share, steps in zip(shares, self.lengths, strict=False))
        surrogate = self.first / 3  # a third of a gradient's cost
        others = USUAL_OTHERS * sum(sum(attack.queries()) for _, attack, _ in self._without_gradients())
        checks = self.check_draws * (2 + 5 + 2 * sum(USUAL) + 2)
        return checks + others, runs + surrogate

    def looks(self) -> int:
        """Those of the runs and of the search, and the check draws: runs of one length ask the same draws."""
        return max(self.check_draws, CONFIRMED) + sum(self.lengths) + self.first + NES["steps"]

    def usual_looks(self) -> int:
        """Those of two lengths, and the check draws."""
        return max(self.check_draws, CONFIRMED) + 3 * self.first

    def _runs_at_most(self) -> Iterator[Member]:
        for steps in self.lengths:
            yield from runs(steps, (None, "guidance_detached"))

    def _surrogate(self) -> Iterator[Member]:
        yield "surrogate", MomentumPGD(steps=self.first, loss="margin", start="transfer"), "surrogate"

    def _without_gradients(self) -> Iterator[Member]:
        yield "straight_through", MomentumPGD(steps=self.first, loss="margin", start="transfer"), "straight_through"
        steps, samples = (min(value, self.first) for value in NES.values())
        yield "nes", NESEOT(steps=steps, samples=samples, start="transfer"), None

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
        if threat.gradient == "none":
            raise NoSuchAttack("strong follows a gradient, got gradient='none'. Every defense has straight_through.")
        given = (model, images, labels, image_ids, threat, seed, trace)
        batch = Batch(*given, check_draws=self.check_draws, settled=self.settled)
        batch.run(bare(threat.epsilon), rounded=True)
        before = batch.worst.wrong.clone()
        if "surrogate" in model.kinds and threat.gradient not in ("straight_through", *UNSEEN):
            batch.run(self._surrogate())
        batch.tell(0)
        self._double(batch, threat)
        batch.going &= batch.together(batch.worst.wrong - before < LITTLE)
        if threat.gradient not in UNSEEN:  # else the attacker has no answer of the defense to search with
            batch.run([member for member in self._without_gradients() if member[2] != threat.gradient])
        batch.round()
        if trace is not None:
            trace.broken_by.update(batch.worst.broken_by())
        return batch.worst.images()

    def _double(self, batch: Batch, threat: ThreatModel) -> None:
        """Runs of every length, each image as far as the last doubling gained on it; afterwards all may go on."""
        guided = "guidance_detached" in batch.model.kinds and threat.gradient == "exact"
        for steps in self.lengths:
            held = guided and (batch.model.batch_coupled or steps == self.first)
            wrong, margin = batch.worst.wrong.clone(), batch.worst.margin.clone()
            kinds: tuple[Gradient | None, ...] = (None, "guidance_detached") if held else (None,)
            batch.run(runs(steps, kinds), draws=f"{steps} steps", rounded=steps == self.first)
            batch.tell(steps)
            if steps > self.first:
                batch.going &= batch.gained(wrong, margin)
        batch.going = torch.ones_like(batch.going)


def bare(epsilon: float = 1.0) -> Iterator[Member]:
    """Attacks on the bare classifier, which cost no answer of the defense.

    Args:
        epsilon: radius, image units.
    """
    steps, step = at_most(TRANSFER_STEPS), STEP * max(epsilon, 1e-9)
    yield "transfer", PGDEOT(steps=steps, step_size=step, eot=1), "transfer"
    margin = PGDEOT(steps=steps, step_size=step, eot=1, loss="margin", select="best")
    yield "margin transfer", margin, "transfer"


def runs(steps: int, kinds: tuple[Gradient | None, ...]) -> Iterator[Member]:
    """Both members at a length, under each kind of gradient; None is the threat model's."""
    for kind in kinds:
        name = f"@{kind}" if kind else ""
        yield f"ce{name} {steps}", MomentumPGD(steps=steps), kind
        yield f"margin{name} {steps}", MomentumPGD(steps=steps, loss="margin", start="transfer"), kind
