"""Accuracy against the diffusion time t: more noise washes more of the attack away, and more of the picture.

Bai et al. (ICML 2024) sweep t on CIFAR-10 with guidance set C; their list of t is unknown, so this one is ours.
AutoAttack rand, Linf 8/255, WRN-28-10; tiers and gradients as in `paper_tables`. The curve is drawn by
`bench report --grid noise_level --format svg`.
"""

from __future__ import annotations

from bench.cell import Cell
from bench.grids._experiment import Experiment, cells_of
from bench.grids.grid import Grid
from bench.grids.paper_tables import CIFAR10, LINF, RAND, WRN28, guided_c, released
from bench.report import Curve, Table
from defenses.diffpure_sde import DiffPureSDE

TIMES = (0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2)
EXPERIMENT = Experiment(
    table="noise_level",
    **CIFAR10,
    classifier=WRN28,
    attack=RAND,
    norm="Linf",
    epsilon=LINF,
    rows=tuple(released(defense) for make in (DiffPureSDE, guided_c) for defense in (make(t=t) for t in TIMES)),
)


def cells(protocol: str = "default") -> list[Cell]:
    """Both purifiers at every t.

    Args:
        protocol: "default" (paper and strong), "paper", "strong", "gold" or "both" (paper and gold).
    """
    return cells_of([EXPERIMENT], protocol)


GRID = Grid(
    title="Noise level",
    cells=cells,
    tables=(
        Table(
            name="noise_level",
            title="Noise level",
            caption="The times t are ours; those of the paper's sweep are unknown.",
            rows=("defense",),
            columns=("tier",),
            values=("attack", "gradient", "robust"),
        ),
    ),
    curve=Curve(x="t", x_label="diffusion time t", title="CIFAR-10, WRN-28-10, Linf 8/255"),
)
