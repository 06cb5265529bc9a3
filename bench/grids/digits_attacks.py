"""Every family of defense under attacks and kinds of gradient, on digits, with validity gates.

Those around a score network meet all of them, the others PGD and `gold`.

Quick tier, 256 images: `gold` runs at a tenth of its steps and draws, so that no cell takes much more than ten minutes.
What it is for: which attack finds most, and where a gradient misleads (docs/attacks.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks import Attack
from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.square_eot import SquareEOT
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.report import Table
from bench.threat import ThreatModel
from defenses import Defense, Gradient
from defenses.adp import ADP
from defenses.adversarial_training import AdversarialTraining
from defenses.contrastive import Contrastive
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.gdmp import GDMP
from defenses.jpeg import JPEG
from defenses.likelihood_maximization import LikelihoodMaximization
from defenses.median_blur import MedianBlur
from defenses.randomized_smoothing import RandomizedSmoothing
from defenses.undefended import Undefended

EPSILON = 3 / 16
T, STEPS, EOT = 0.1, 10, 4
PGD = PGDEOT(steps=20, step_size=EPSILON / 8, eot=EOT)
DEFENSES: tuple[Defense, ...] = (
    Undefended(),
    AdversarialTraining(model="digits_cnn_at"),
    JPEG(),
    MedianBlur(),
    RandomizedSmoothing(runs=10),
    DiffPureSDE(t=T, steps=STEPS),
    DiffPureODE(t=T, steps=STEPS),
    DDPM(t=T, steps=STEPS),
    GDMP(t=0.036, steps=6, rounds=2, runs=1, guidance_scale=1250.0),
    ADP(runs=1),
    LikelihoodMaximization(),
    Contrastive(t=T, steps=STEPS),
    Contrastive(t=T, steps=STEPS, per_image=True, guidance_scale=500 / 64),
)


def cell(defense: Defense, attack: Attack, gradient: Gradient) -> Cell:
    """A digits cell of 256 images."""
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=attack,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient),
        num_images=256,
        draws=10,
    )


def attacks_on(defense: Defense) -> Iterator[tuple[Attack, Gradient]]:
    """Attack and gradient kind, weakest first. Without an exact gradient, the straight-through one is the strongest."""
    strongest: Gradient = "exact" if "exact" in defense.gradients else "straight_through"
    if defense.needs_score:
        yield SquareEOT(steps=100, eot=EOT), "none"
    yield PGD, "transfer"
    yield PGD, "straight_through"
    if "guidance_detached" in defense.gradients:
        yield PGD, "guidance_detached"
    if strongest == "exact":
        yield PGD, "exact"
    if defense.needs_score:
        yield APGDEOT(steps=20, eot=EOT, loss="margin"), strongest
    yield Gold(steps=20, apgd_steps=10, eot=EOT, check_draws=10), strongest


def cells() -> Iterator[Cell]:
    """Defense by defense."""
    for defense in DEFENSES:
        for attack, gradient in attacks_on(defense):
            yield cell(defense, attack, gradient)


TABLE = Table(
    name="attacks",
    title="Attacks on digits, Linf 3/16",
    rows=("defense", "attack", "gradient"),
    columns=(),
    values=("robust",),
)
GRID = Grid(title="Attacks on digits, Linf 3/16", cells=cells, gates=("gold",), tables=(TABLE,))
