"""Handwritten digits on a laptop: every family of defense, attacked with every kind of gradient, in five minutes.

Quick tier: PGD-20 with EOT 4 on 64 pictures of 8x8 pixels. It shows how the harness works and how far the kinds of
gradient are apart; it makes no claim about a defense on natural images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.attacks import Attack
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.threat import ThreatModel
from defenses import Defense, Gradient
from defenses.adp import ADP
from defenses.adversarial_training import AdversarialTraining
from defenses.contrastive import Contrastive
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.freqpure import FreqPure
from defenses.gdmp import GDMP
from defenses.gradual_noise import GradualNoise
from defenses.jpeg import JPEG
from defenses.likelihood_maximization import LikelihoodMaximization
from defenses.median_blur import MedianBlur
from defenses.randomized_smoothing import RandomizedSmoothing
from defenses.undefended import Undefended

EPSILON = 3 / 16  # three of the digits' grey levels
T, STEPS = 0.1, 10
KINDS: tuple[Gradient, ...] = ("transfer", "straight_through", "exact")
ATTACK = PGDEOT(steps=20, step_size=EPSILON / 8, eot=4)

DIFFPURE, CONTRASTIVE = DiffPureSDE(t=T, steps=STEPS), Contrastive(t=T, steps=STEPS)
PURIFIERS = (
    DiffPureODE(t=T, steps=STEPS),
    DDPM(t=T, steps=STEPS),
    GDMP(t=0.036, steps=6, rounds=2, runs=1, guidance_scale=1250.0),  # per pixel the guidance of the CIFAR-10 setting
    GradualNoise(levels=(50, 100), steps=(5, 5), runs=1),
    ADP(runs=1),
    LikelihoodMaximization(),
    FreqPure(radius=2.5, steps=10, runs=1),  # a quarter of the radius on a quarter of the pixels a side
    RandomizedSmoothing(runs=10),
)


def cell(defense: Defense, attack: Attack, gradient: Gradient, classifier: str = "digits_cnn") -> Cell:
    """A digits cell of the quick tier."""
    return Cell(
        dataset="digits",
        classifier=classifier,
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=attack,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient),
        num_images=64,
        draws=10,
        tier="quick",
    )


def cells() -> Iterator[Cell]:
    """One row a family under its exact gradient; the two that the paper compares also under the others."""
    yield cell(Undefended(), ATTACK, "exact")
    yield cell(AdversarialTraining(model="digits_cnn_at"), ATTACK, "exact")
    yield cell(JPEG(), ATTACK, "straight_through")
    yield cell(MedianBlur(), ATTACK, "exact")
    for gradient in KINDS:
        yield cell(DIFFPURE, ATTACK, gradient)
    for gradient in (*KINDS, "guidance_detached"):
        yield cell(CONTRASTIVE, ATTACK, gradient)
    # The loss is a mean over the batch: a batch of one needs a 64th of the scale for the same guidance.
    yield cell(replace(CONTRASTIVE, per_image=True, guidance_scale=500 / 64, guide_from=None), ATTACK, "exact")
    for defense in PURIFIERS:
        yield cell(defense, ATTACK, "exact")
    yield cell(LikelihoodMaximization(), ATTACK, "straight_through")
    yield cell(DIFFPURE, ATTACK, "exact", classifier="digits_cnn_at")


GRID = Grid(title="Quickstart", cells=cells)
