"""Planted false defenses beside honest ones: `PYTHONPATH=tests bench run --grid tests/planted/grid.py`.

Quick tier, so that they get the gates that every cell gets. One row a defense.
"""

from __future__ import annotations

from collections.abc import Iterator

from planted import gradients, images, plateaus, who_asks  # noqa: F401 - they plant
from planted.adaptive import EPSILON
from planted.honest import HONEST
from planted.lab import PLANTED

from bench.attacks import Attack
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell, Tier
from bench.grids import Grid
from bench.threat import ThreatModel
from defenses.base import Defense, Gradient

IMAGES = 64


def quick(defense: Defense) -> Attack:
    """PGD of 20 steps."""
    return PGDEOT(steps=20, step_size=EPSILON / 8, eot=2 if defense.stochastic else 1)


def gold(defense: Defense) -> Attack:
    """`gold` with a fifth of its steps and draws."""
    draws = 4 if defense.stochastic else 1
    return Gold(steps=40, apgd_steps=20, eot=draws, check_draws=10 if defense.stochastic else 1)


def cell(defense: Defense, gradient: Gradient, tier: Tier, *, attack: Attack | None = None) -> Cell:
    """A digits cell at Linf 3/16."""
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=attack or quick(defense),
        threat=ThreatModel(epsilon=EPSILON, gradient=gradient),
        num_images=IMAGES,
        tier=tier,
    )


def cells() -> Iterator[Cell]:
    """Each planted defense, then the honest ones."""
    for cls in PLANTED:
        yield cell(cls(), cls.at, "quick")
    for defense, gradient in HONEST:
        yield cell(defense, gradient, "quick")


GRID = Grid(title="Planted", cells=cells)
