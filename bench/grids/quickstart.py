"""Handwritten digits on a laptop: every family of defense, attacked with every kind of gradient, in five minutes.

Quick tier: PGD-20 with EOT 4 on 64 pictures of 8x8 pixels. It shows how the harness works and how far the kinds of
gradient are apart; it makes no claim about a defense on natural images.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks import Attack
from bench.attacks.clean import Clean
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses import Defense, Gradient
from defenses.adversarial_training import AdversarialTraining
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.jpeg import JPEG
from defenses.undefended import Undefended

TITLE = "Digits, Linf 3/16, quick tier"
EPSILON = 3 / 16  # three of the digits' grey levels
T, STEPS = 0.1, 20
PGD = PGDEOT(steps=20, step_size=EPSILON / 8, eot=4)
PGD_PLAIN = PGDEOT(steps=20, step_size=EPSILON / 8, eot=1)


def cell(defense: Defense, attack: Attack, gradient: Gradient) -> Cell:
    """A digits cell of the quick tier."""
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=attack,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient),
        num_images=64,
        draws=10,
        tier="quick",
    )


def cells() -> Iterator[Cell]:
    """Defenses in the order of the table; each under the strongest gradient that it has, and under weaker ones."""
    for deterministic in (Undefended(), AdversarialTraining(model="digits_cnn_at")):
        yield cell(deterministic, PGD_PLAIN, "exact")
    yield cell(JPEG(), PGD_PLAIN, "transfer")
    yield cell(JPEG(), PGD_PLAIN, "straight_through")
    kinds: tuple[Gradient, ...] = ("transfer", "straight_through", "exact")
    for purifier in (DiffPureSDE(t=T, steps=STEPS), Contrastive(t=T, steps=STEPS)):
        for gradient in kinds:
            yield cell(purifier, PGD, gradient)
    yield cell(Contrastive(t=T, steps=STEPS, per_image=True), PGD, "exact")
    yield cell(DiffPureSDE(t=T, steps=STEPS), Clean(), "none")
