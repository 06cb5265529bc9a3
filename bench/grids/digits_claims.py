"""What the claims of recent defenses are worth, on digits: a cell for every gradient that an attacker may have.

Quick tier: `strong` with lengths of 20 to 80 steps on 32 images; `bench compare` reads two rows. `momentum_pgd` asks
the guided defenses with one kind of gradient, as `strong` with the exact gradient holds their guidance constant, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks.autoattack_standard import AutoAttackStandard
from bench.attacks.base import Attack
from bench.attacks.momentum_pgd import MomentumPGD
from bench.attacks.strong import Strong
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.report import Table
from bench.threat import Knowledge, ThreatModel
from defenses import Defense, Gradient
from defenses.aaopt import AAOpt
from defenses.adbm import ADBM
from defenses.consistency import Consistency
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.flowpure import FlowPure
from defenses.gdmp import GDMP

EPSILON = 3 / 16
T, STEPS = 0.1, 10
IMAGES = 32
STRONG = Strong(first=20, longest=80, check_draws=10)
SINGLE = MomentumPGD(steps=40, loss="margin", start="transfer")
LOGGED = AutoAttackStandard()  # of AAOpt's logs: made against the surrogate, shown to the defense
DEFENSES: dict[str, Defense] = {
    "aaopt": AAOpt(perturbation="digits_perturbation"),
    "flowpure": FlowPure(),
    "flowpure_judged": FlowPure(points=5),  # what the authors' white-box attack counts its successes on
    "diffpure_sde": DiffPureSDE(t=T, steps=STEPS),
    "gdmp": GDMP(t=0.036, steps=6, rounds=2, runs=1, guidance_scale=1250.0),  # CIFAR's guidance a pixel
    "adbm": ADBM(),
    "consistency": Consistency(),
    "contrastive": Contrastive(t=T, steps=STEPS),
}
RELEASED_SURROGATE = ("aaopt", "flowpure")  # whose authors' attacks differentiate the surrogate; the others' is ours
GUIDED = ("gdmp", "contrastive")


def cell(name: str, gradient: Gradient, attack: Attack = STRONG, noise: Knowledge = "fresh") -> Cell:
    """A digits cell of 32 images.

    Args:
        name: of `DEFENSES`.
        gradient: what the attacker differentiates.
        attack: `STRONG`, `SINGLE` or `LOGGED`.
        noise: "fresh", or "known" to the attacker.
    """
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score",
        defense=DEFENSES[name],
        attack=attack,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient, noise=noise),
        num_images=IMAGES,
        batch_size=IMAGES,
        draws=20,
    )


def kinds(name: str) -> list[Gradient]:
    """The kinds of gradient that the grid asks a defense of `DEFENSES` with, weakest first."""
    if name == "flowpure_judged":
        return ["exact"]
    found: list[Gradient] = ["transfer", "straight_through"]
    if name in RELEASED_SURROGATE:
        found.append("surrogate")
    if name in GUIDED:
        found.append("guidance_detached")
    return [*found, "exact"]


def cells() -> Iterator[Cell]:
    """Defense by defense, the attack of AAOpt's logs, the guided ones with a single kind of gradient, and DW-box."""
    for name in DEFENSES:
        yield from (cell(name, kind) for kind in kinds(name))
    yield cell("aaopt", "surrogate", LOGGED)
    for name in GUIDED:
        yield from (cell(name, kind, SINGLE) for kind in ("guidance_detached", "exact"))
    yield from (cell(name, "exact", noise="known") for name in DEFENSES)


CAPTION = "Strong with lengths of 20 to 80 steps. A longer attack may leave less."
TABLES = (
    Table(
        name="gradients",
        title="By what the attacker differentiates",
        caption=CAPTION,
        rows=("defense",),
        columns=("gradient",),
        values=("robust",),
        where={"attack": "strong", "noise": "fresh"},
    ),
    Table(
        name="readings",
        title="The exact rows, read in other ways",
        rows=("defense",),
        columns=("attack",),
        values=("robust", "vote", "worst", "first_success", "null_first_success"),
        where={"attack": "strong", "gradient": "exact", "noise": "fresh"},
    ),
    Table(
        name="known_noise",
        title="The attacker knows the noise (DW-box), beside fresh draws",
        caption="With known noise a number is of one recorded draw of each image, a fixed function: never compare.",
        rows=("defense",),
        columns=("attack",),
        values=("robust",),
        where={"attack": "strong", "gradient": "exact"},
    ),
    Table(
        name="single",
        title="One attack, one gradient",
        rows=("defense",),
        columns=("gradient",),
        values=("robust",),
        where={"attack": "momentum_pgd"},
    ),
    Table(
        name="logged",
        title="AutoAttack on the one-step surrogate, as AAOpt's authors logged it",
        rows=("defense",),
        columns=("gradient",),
        values=("robust", "vote", "worst"),
        where={"attack": "autoattack_standard"},
    ),
)
GRID = Grid(title="Claims on digits, Linf 3/16", cells=cells, caption=CAPTION, tables=TABLES)
