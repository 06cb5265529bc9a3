"""What a gate answers, and what it asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.base import JUDGE_ROWS, Attack, Oracle
from bench.attacks.cascade import Cascade
from bench.attacks.losses import LOSSES, margin
from bench.gates.chance import smallest_loss
from bench.records import ImageRecord
from bench.statistics import paired_difference
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient
from defenses.noise import Noise, role_seed

DRAWS = 10  # judging draws of the gates, apart from every other draw
CHEAP_DRAWS, FEW = 4, 4  # where the gates must be cheap: judging draws, and images whose gradients are looked at
Build = Callable[[Gradient], Defended]


@dataclass(frozen=True)
class Gate:
    """One check.

    Attributes:
        name: of the function that made it.
        passed: True, False, or None where it does not apply or could not be made.
        value: what was measured; None where nothing was.
        reason: in words.
        evaluations: network evaluations that it took; None where they were not counted.
    """

    name: str
    passed: bool | None
    value: float | None
    reason: str
    evaluations: int | None = None

    def row(self) -> dict[str, Any]:
        """As stored: {gate, passed, value, reason}, and evaluations where they were counted."""
        row = {"gate": self.name, "passed": self.passed, "value": self.value, "reason": self.reason}
        return row if self.evaluations is None else row | {"evaluations": self.evaluations}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the cell beside the gates' own images. A gate that needs what is missing does not apply.

    Attributes:
        records: of all images of the cell, as they are stored.
        fresh: makes the defense from a new instance that nobody has asked anything; None is `build`.
        classifier: the cell's own classifier, without the defense; None is the one inside the defense.
        unseen: a number -> that many (images, labels) that are not the cell's, or None where there are none.
        stochastic: whether two answers for one image may differ, as the defense declares.
        rows: images that the judge of the cell asks about in one pass.
        adversarial: of the gates' images, as the cell's attack left them; None where they were not kept, and the attack
            is run again.
        unknown: makes the defense on fresh draws, where the cell's attacker knows them; None where it does not.
        attacked: makes the defense as the cell's attack sees it, in low precision; None where that is float32.
        tried: kinds of gradient that members of the cell's attack have had: asked again they would find nothing new.
    """

    records: Sequence[ImageRecord] = ()
    fresh: Build | None = None
    classifier: nn.Module | None = None
    unseen: Callable[[int], tuple[Tensor, Tensor] | None] | None = None
    stochastic: bool = True
    rows: int = JUDGE_ROWS
    adversarial: Tensor | None = None
    tried: frozenset[Gradient] = frozenset()
    attacked: Build | None = None
    unknown: Build | None = None

    @cached_property
    def by_index(self) -> Mapping[int, ImageRecord]:
        """Place in the data set -> record."""
        return {record.index: record for record in self.records}


class Subject:
    """A defense under an attack, on a subset of images. Attacks and accuracies are computed when first asked for.

    Its arguments are those of `run_gates`.
    """

    def __init__(
        self,
        build: Build,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        attack: Attack,
        *,
        seed: int,
        classes: int,
        evidence: Evidence | None = None,
        cheap: bool = False,
    ) -> None:
        self.build, self.images, self.labels, self.image_ids = build, images, labels, image_ids
        self.threat, self.attack, self.seed, self.classes = threat, attack, role_seed(seed, "gates"), classes
        self.evidence = evidence or Evidence()
        self.cheap = cheap
        self.draws = (CHEAP_DRAWS if cheap else DRAWS) if self.evidence.stochastic else 1
        self.probe = FEW if cheap else len(images)
        self.kept: dict[str, Tensor] = {}  # images of attacks that several gates hand over
        self.left = self.evidence.adversarial  # by the cell's attack, of these images
        self.asked: list[tuple[str, Tensor]] = []  # (attack in words, its answers), for `agrees_with_cell`

    @cached_property
    def model(self) -> Defended:
        """The defense with the threat model's gradient."""
        return self.build(self.threat.gradient)

    @cached_property
    def adversarial(self) -> Tensor:
        """What the cell's attack left of the images, or the attack run again."""
        return self.attacked(self.attack) if self.left is None else self.left

    @cached_property
    def correct(self) -> Tensor:
        """(draws, batch): answers on the attack's images."""
        return self.judged(self.adversarial)

    @cached_property
    def stored(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(right draws, draws) that the cell counted on these images under its attack; None without all records."""
        known = [self.evidence.by_index.get(int(image)) for image in self.image_ids.tolist()]
        if not all(known):
            return None
        return np.array([r.robust_correct for r in known if r]), np.array([r.draws for r in known if r])

    @property
    def eot(self) -> int:
        """Draws that the attack averages at a step; 1 for an attack without the field."""
        return int(getattr(self.attack, "eot", 1))

    @property
    def loss(self) -> str:
        """The attack's loss, "ce" for an attack without one."""
        loss = getattr(self.attack, "loss", "ce")
        return loss if loss in LOSSES else "ce"

    @property
    def is_still(self) -> bool:
        """Whether the cell's attack moved no image: its number is an accuracy, not a robustness."""
        records = self.evidence.records
        return not self.threat.epsilon or (bool(records) and all(r.distance == 0 for r in records))

    def part(self, count: int) -> Subject:
        """The first `count` images alone."""
        if count >= len(self.images):
            return self
        part = self.on(self.images[:count], self.labels[:count], self.image_ids[:count])
        part.left = None if self.left is None else self.left[:count]
        return part

    def on(self, images: Tensor, labels: Tensor, image_ids: Tensor) -> Subject:
        """The same defense and attack, on other images."""
        other = Subject(
            self.build,
            images,
            labels,
            image_ids,
            self.threat,
            self.attack,
            seed=0,
            classes=self.classes,
            evidence=self.evidence,
            cheap=self.cheap,
        )
        other.seed, other.left = self.seed, None
        return other

    def start(self) -> Tensor:
        """A random start in the ball around each image."""
        return self.threat.random_start(self.images, self.noise("start").uniform(self.images, step=0))

    @torch.enable_grad()
    def attacked(self, attack: Attack, *, model: Defended | None = None, threat: ThreatModel | None = None) -> Tensor:
        """Adversarial images, projected."""
        model, threat = model or self.model, threat or self.threat
        found = attack.perturb(
            model, self.images.clone(), self.labels.clone(), self.image_ids.clone(), threat, self.seed
        ).detach()
        return threat.project(found, self.images) if attack.restricted else found

    def judged(self, x: Tensor) -> Tensor:
        """(draws, batch) correctness of the defense on x; the same draws for every x."""
        judge = Oracle(
            self.model, self.labels, self.image_ids, self.seed, eot=self.draws, role="judge:gates", rows=JUDGE_ROWS
        )
        return judge.evaluate(x, 0).correct

    def oracle(self, eot: int, loss: str) -> Oracle:
        """An oracle on the gates' own selection draws."""
        return Oracle(self.model, self.labels, self.image_ids, self.seed, eot=eot, loss=LOSSES[loss])

    def noise(self, role: str = "look") -> Noise:
        """One draw for every image."""
        return Noise(role_seed(self.seed, role), self.image_ids)

    def margins(self, x: Tensor, model: Defended | None = None) -> Tensor:
        """(batch,) margins of the defense at x for one fixed draw, positive where misclassified."""
        return margin((model or self.model)(x, self.noise()), self.labels)

    def lower(self, other: Tensor) -> tuple[float, float, float]:
        """Accuracy of the attack minus that on `other` (draws, batch): (difference, low, high), 95 %, paired."""
        return self.paired((self.correct.sum(0).cpu().numpy(), np.array(len(self.correct))), other)

    def beaten(self, other: Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
        """As `lower`, of what the cell stored on these images where that is known, else of the attack run again."""
        mine = self.stored or (self.correct.sum(0).cpu().numpy(), np.array(len(self.correct)))
        return self.paired(mine, other, confidence)

    def paired(
        self, mine: tuple[np.ndarray, np.ndarray], other: Tensor, confidence: float = 0.95
    ) -> tuple[float, float, float]:
        """Accuracy of `mine` (right draws, draws) minus that of `other` (draws, batch): difference, low, high."""
        return paired_difference(*mine, other.sum(0).cpu().numpy(), len(other), confidence)

    @property
    def sees(self) -> str:
        """The smallest loss that a paired comparison on these images could call one, in words."""
        return f"{smallest_loss(len(self.images)):.1%} on {len(self.images)} images is the least it could have seen"


def scaled(attack: Attack, fields: tuple[str, ...], factor: float) -> Attack | None:
    """The attack with those of the fields that it has multiplied by a factor, in its members too; None without any."""
    if isinstance(attack, Cascade):
        members = [scaled(member, fields, factor) for member in attack.made()]
        if not any(members):
            return None
        made = zip(members, attack.made(), attack.members, strict=True)
        return dataclasses.replace(
            attack, members=tuple((n, (m or old).params(), kind) for m, old, (n, _, kind) in made)
        )
    old = {name: value for name, value in attack.params().items() if name in fields}
    return dataclasses.replace(attack, **{k: type(v)(v * factor) for k, v in old.items()}) if old else None


def share(values: Tensor) -> float:
    """Mean of booleans, as a Python number."""
    return float(values.double().mean())


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(torch.sqrt((x.double() ** 2).mean()))
