"""A paper's experiment on networks that ship with the package: what a CPU can run, in the quick tier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.grids._rows import DefenseRow
from bench.threat import Norm, ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.base import Purifier
from defenses.diffpure_ode import DiffPureODE

REACH = 2.2  # length of all steps of the attack over the radius


@dataclass(frozen=True, kw_only=True)
class Small:
    """Small networks in place of an experiment's own.

    The kind of gradient of a row is kept, but "adjoint" becomes "exact". An adversarially trained model of the paper
    and ours are different models, so no published number stands beside ours.

    Attributes:
        classifier: registered name.
        score: registered name of the purifiers' network.
        trained: registered name of the adversarially trained classifier.
        steps: network evaluations of a purifier. Euler-Maruyama leaves the noise of its last step in the picture, so an
            SDE needs more steps than an ODE.
        ode_steps: those of a purifier without noise on the way back.
        attack_steps: steps of PGD+EOT.
        eot: draws a step.
        num_images: pictures.
        draws: judging draws.
    """

    classifier: str
    score: str
    trained: str
    steps: int = 20
    ode_steps: int = 5
    attack_steps: int = 10
    eot: int = 1
    num_images: int = 64
    draws: int = 3

    def cell(self, row: DefenseRow, *, dataset: str, norm: Norm, epsilon: float) -> Cell:
        """The stand-in of one row of an experiment with this data set and ball."""
        gradient = "exact" if row.gradient == "adjoint" else row.gradient
        return Cell(
            dataset=dataset,
            classifier=self.classifier,
            score=self.score if row.defense.needs_score else None,
            defense=self._shortened(row.defense),
            attack=self.attack(epsilon),
            threat=ThreatModel(norm=norm, epsilon=epsilon, gradient=gradient),
            num_images=self.num_images,
            draws=self.draws,
            published=None if isinstance(row.defense, AdversarialTraining) else row.published,
        )

    def attack(self, epsilon: float) -> PGDEOT:
        """PGD+EOT for a radius in image units."""
        return PGDEOT(steps=self.attack_steps, eot=self.eot, step_size=REACH / self.attack_steps * epsilon)

    def _shortened(self, defense: Any) -> Any:
        if isinstance(defense, AdversarialTraining):
            return AdversarialTraining(model=self.trained)
        if not isinstance(defense, Purifier):
            return defense
        changes: dict[str, Any] = {"guide": None} if hasattr(defense, "guide") else {}
        ode = isinstance(defense, DiffPureODE) or getattr(defense, "solver", None) == "ode"
        return replace(defense, **changes, steps=self.ode_steps if ode else self.steps)  # type: ignore[call-arg]
