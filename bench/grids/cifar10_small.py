"""CIFAR-10 on networks that two CPU cores can train: does guidance help, and under which gradient?

Quick tier: 64 test pictures, PGD-10 with fresh noise at each step, and a short `strong`; three judging draws. The
comparison is between the reverse ODE without and with guidance, in five steps; the SDE, whose last step leaves its
noise in the picture, needs 20, and has fewer rows. The score network and the adversarially trained classifier are those
of `bench train` (docs/assets.md); the classifier behind the purifiers is the public ResNet-56. docs/findings.md reads
the tables. The cells of `paper_tables --protocol quick` are among these; `cifar10_noise_level` sweeps t.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks import Attack
from bench.attacks.autoattack_standard import AutoAttackStandard
from bench.attacks.clean import Clean
from bench.attacks.gold import Gold
from bench.attacks.strong import Strong
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.grids.paper_tables import SMALL
from bench.report import Table
from bench.threat import Norm, ThreatModel
from defenses import Defense, Gradient
from defenses.adp import ADP
from defenses.adversarial_training import AdversarialTraining
from defenses.contrastive import Contrastive
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.gdmp import GDMP
from defenses.gradual_noise import GradualNoise
from defenses.jpeg import JPEG
from defenses.randomized_smoothing import RandomizedSmoothing
from defenses.sde_gdmp import SDEGDMP
from defenses.undefended import Undefended

EPSILONS: dict[Norm, float] = {"Linf": 8 / 255, "L2": 0.5}
LEVELS: dict[Norm, float] = {"Linf": 0.1, "L2": 0.075}  # the paper's t for each norm
TRAINED = AdversarialTraining(model=SMALL.trained)
GOLD = Gold(steps=40, apgd_steps=50, eot=1, check_draws=1)  # for defenses without a purifier
STRONG = Strong(first=10, longest=20, check_draws=SMALL.draws)


def diffpure(t: float) -> DiffPureODE:
    """DiffPure's reverse ODE in five steps."""
    return DiffPureODE(t=t, steps=SMALL.ode_steps)


def contrastive(t: float, **changes: object) -> Contrastive:
    """Contrastive guidance as released (one batch, the authors' InfoNCE with hard negatives) on the same ODE."""
    return Contrastive(t=t, steps=SMALL.ode_steps, solver="ode", **changes)  # type: ignore[arg-type]


PER_IMAGE = contrastive(0.1, per_image=True, guidance_scale=500 / 64)  # the loss is a mean over the batch
OTHERS: tuple[Defense, ...] = (
    DDPM(t=0.1, steps=5),
    GradualNoise(levels=(50, 100), steps=(2, 4), runs=1),
    GDMP(t=0.036, steps=4, rounds=2, runs=1),
    contrastive(0.1, loss="infonce"),
    contrastive(0.1, loss="hard_negatives"),
)
SDE_LOSSES = (
    Contrastive(t=0.1, steps=SMALL.steps, loss="released_soft"),
    Contrastive(t=0.1, steps=SMALL.steps, loss="infonce"),
    Contrastive(t=0.1, steps=SMALL.steps, loss="ntxent"),
    Contrastive(t=0.1, steps=SMALL.steps, loss="hard_negatives"),
)


def cell(
    defense: Defense, gradient: Gradient, norm: Norm = "Linf", attack: Attack | None = None, images: int = 64,
    draws: int = SMALL.draws,
) -> Cell:  # fmt: skip
    """A cell of the quick tier; the pictures are the same for every defense."""
    return Cell(
        dataset="cifar10",
        classifier=SMALL.classifier,
        score=SMALL.score if defense.needs_score else None,
        defense=defense,
        attack=attack or SMALL.attack(EPSILONS[norm]),
        threat=ThreatModel(norm=norm, epsilon=EPSILONS[norm], gradient=gradient),
        num_images=images,
        draws=draws,
    )


def attacked(defense: Defense, norm: Norm = "Linf") -> Iterator[Cell]:
    """A purifier under every kind of gradient that tells something about it."""
    yield cell(defense, "transfer", norm)
    yield from without_transfer(defense, norm)


def without_transfer(defense: Defense, norm: Norm) -> Iterator[Cell]:
    """The kinds of gradient that see the defense; an exact one that guidance misleads stands beside its check."""
    yield cell(defense, "straight_through", norm)
    if "guidance_detached" in defense.gradients:
        yield cell(defense, "guidance_detached", norm)
    yield cell(defense, "exact", norm)


def baselines(norm: Norm) -> Iterator[Cell]:
    """The defenses without a score network; two of them cheap enough for 256 pictures and `gold`."""
    for bare in (Undefended(), TRAINED):
        yield cell(bare, "exact", norm)
        yield cell(bare, "exact", norm, GOLD, images=256)
    for washed in (JPEG(), RandomizedSmoothing(runs=10)):
        yield cell(washed, "transfer", norm)
        yield cell(washed, "straight_through", norm)


def main_rows(norm: Norm) -> Iterator[Cell]:
    """The comparison of the paper."""
    yield from attacked(diffpure(LEVELS[norm]), norm)
    yield from attacked(contrastive(LEVELS[norm]), norm)


def strong_rows() -> Iterator[Cell]:
    """`strong` of 10 and 20 steps on the same two, and on others of few steps."""
    for defense in (diffpure(0.1), contrastive(0.1), PER_IMAGE, *OTHERS[:3]):
        yield cell(defense, "exact", attack=STRONG)


def sde_rows(norm: Norm) -> Iterator[Cell]:
    """The paper's own sampler, where it is cheap enough."""
    t, steps = LEVELS[norm], SMALL.steps
    for defense in (DiffPureSDE(t=t, steps=steps), Contrastive(t=t, steps=steps)):
        yield from without_transfer(defense, norm)
    yield cell(SDEGDMP(t=t, steps=steps), "straight_through", norm)


def cells() -> Iterator[Cell]:
    """The comparison, baselines, the other settings and purifiers, L2, and clean accuracies."""
    yield from main_rows("Linf")
    yield from attacked(PER_IMAGE)
    yield from strong_rows()
    yield from sde_rows("Linf")
    yield from baselines("Linf")
    yield cell(TRAINED, "exact", attack=AutoAttackStandard(), images=32)
    yield from main_rows("L2")
    for defense in OTHERS:
        yield from attacked(defense)
    yield from baselines("L2")
    yield from sde_rows("L2")
    for defense in SDE_LOSSES:
        yield cell(defense, "straight_through")
    yield from attacked(ADP(runs=1, steps=4))
    for t in (0.05, 0.1):
        yield cell(DiffPureSDE(t=t, steps=50), "none", attack=Clean(), images=250, draws=1)
        for short in (DDPM(t=t, steps=5), diffpure(t)):
            yield cell(short, "none", attack=Clean(), images=1000, draws=1)


CAPTION = (
    "PGD takes ten steps of one draw: less than the quick tier's usual 20 of four. A longer attack may leave less."
)
TABLES = (
    Table(
        name="main",
        title="CIFAR-10, small networks",
        caption=CAPTION,
        rows=("defense",),
        columns=("gradient",),
        values=("robust",),
        where={"attack": "pgd_eot"},
    ),
    Table(
        name="gold",
        title="Under cascades of attacks",
        rows=("defense",),
        columns=("attack",),
        values=("robust",),
        where={"attack": ("gold", "strong", "autoattack_standard")},
    ),
    Table(name="clean", title="Clean pictures", rows=("defense",), values=("robust",),
          where={"attack": "clean"}),
)  # fmt: skip
GRID = Grid(title="CIFAR-10, small networks", cells=cells, caption=CAPTION, tables=TABLES)
