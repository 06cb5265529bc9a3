"""What a gate answers, and what it asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS, Attack, Oracle
from bench.attacks.cascade import Cascade
from bench.attacks.losses import LOSSES, margin
from bench.statistics import paired_difference
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient
from defenses.noise import Noise, role_seed

DRAWS = 10  # judging draws of the gates, apart from every other draw


@dataclass(frozen=True)
class Gate:
    """One check.

    Attributes:
        name: of the function that made it.
        passed: True, False, or None where it does not apply.
        value: what was measured; None where nothing was.
        reason: in words.
    """

    name: str
    passed: bool | None
    value: float | None
    reason: str

    def row(self) -> dict[str, Any]:
        """As stored: {gate, passed, value, reason}."""
        return {"gate": self.name, "passed": self.passed, "value": self.value, "reason": self.reason}


class Subject:
    """A defense under an attack, on a subset of images. Attacks and accuracies are computed when first asked for.

    Its arguments are those of `run_gates`.
    """

    def __init__(
        self,
        build: Callable[[Gradient], Defended],
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        attack: Attack,
        *,
        seed: int,
        classes: int,
    ) -> None:
        self.build, self.images, self.labels, self.image_ids = build, images, labels, image_ids
        self.threat, self.attack, self.seed, self.classes = threat, attack, role_seed(seed, "gates"), classes

    @cached_property
    def model(self) -> Defended:
        """The defense with the threat model's gradient."""
        return self.build(self.threat.gradient)

    @cached_property
    def adversarial(self) -> Tensor:
        """The cell's own attack on the subset."""
        return self.attacked(self.attack)

    @cached_property
    def correct(self) -> Tensor:
        """(draws, batch): answers on the attack's images."""
        return self.judged(self.adversarial)

    @property
    def eot(self) -> int:
        """Draws that the attack averages at a step; 1 for an attack without the field."""
        return int(getattr(self.attack, "eot", 1))

    @property
    def loss(self) -> str:
        """The attack's loss, "ce" for an attack without one."""
        loss = getattr(self.attack, "loss", "ce")
        return loss if loss in LOSSES else "ce"

    def attacked(self, attack: Attack, *, model: Defended | None = None, threat: ThreatModel | None = None) -> Tensor:
        """Adversarial images, projected."""
        model, threat = model or self.model, threat or self.threat
        found = attack.perturb(model, self.images, self.labels, self.image_ids, threat, self.seed).detach()
        return threat.project(found, self.images) if attack.restricted else found

    def judged(self, x: Tensor) -> Tensor:
        """(draws, batch) correctness of the defense on x; the same draws for every x."""
        judge = Oracle(
            self.model, self.labels, self.image_ids, self.seed, eot=DRAWS, role="judge:gates", rows=JUDGE_ROWS
        )
        return judge.evaluate(x, 0).correct

    def oracle(self, eot: int, loss: str) -> Oracle:
        """An oracle on the gates' own selection draws."""
        return Oracle(self.model, self.labels, self.image_ids, self.seed, eot=eot, loss=LOSSES[loss])

    def noise(self, role: str = "look") -> Noise:
        """One draw for every image."""
        return Noise(role_seed(self.seed, role), self.image_ids)

    def margins(self, x: Tensor) -> Tensor:
        """(batch,) margins of the defense at x for one fixed draw, positive where misclassified."""
        return margin(self.model(x, self.noise()), self.labels)

    def lower(self, other: Tensor) -> tuple[float, float, float]:
        """Accuracy of the attack minus that on `other` (draws, batch): (difference, low, high), 95 %, paired."""
        counts = [c.sum(0).cpu().numpy() for c in (self.correct, other)]
        return paired_difference(counts[0], len(self.correct), counts[1], len(other))


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
