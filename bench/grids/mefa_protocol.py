"""The protocol of MEFA (arXiv:2605.06357) on CIFAR-10, and at the size of digits.

100 steps of 2/255 with 20 draws, Linf 8/255, last iterate, 510 images, 100 judging draws; the notes of a row hold the
protocol's own readings, of mean logits over 1, 30, 50 and 100 draws. The authors' DDPM is the public 35.7 M one; here
both purifiers use the DDPM++ network of `paper_tables`. `protocol="quick"` are digits with the shipped networks.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks.mefa import MEFA
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.grids.paper_tables import CIFAR10, LINF, WRN28
from bench.report import Table
from bench.threat import ThreatModel
from defenses.ddpm import DDPM
from defenses.diffpure_sde import DiffPureSDE

EPSILON = 3 / 16  # of digits


def cells(protocol: str = "paper") -> Iterator[Cell]:
    """PGD and APGD on both purifiers.

    Args:
        protocol: "paper" (CIFAR-10, 510 images) or "quick" (digits, 32 images, a fifth of steps and draws).

    Raises:
        ValueError: another protocol.
    """
    if protocol == "paper":
        for defense in (DiffPureSDE(), DDPM()):
            for attack in (MEFA(), MEFA(method="apgd")):
                yield Cell(
                    dataset=CIFAR10["dataset"],
                    classifier=WRN28,
                    score=CIFAR10["score"],
                    defense=defense,
                    attack=attack,
                    threat=ThreatModel(epsilon=LINF),
                    num_images=510,
                    batch_size=30,
                    draws=100,
                    tier="paper",
                )
    elif protocol == "quick":
        small = {"steps": 20, "step_size": EPSILON / 4, "eot": 4}
        for defense in (DiffPureSDE(t=0.1, steps=5), DDPM(t=0.1, steps=5)):
            for attack in (MEFA(**small), MEFA(**small, method="apgd")):  # type: ignore[arg-type]
                yield Cell(
                    dataset="digits",
                    classifier="digits_cnn",
                    score="digits_score",
                    defense=defense,
                    attack=attack,
                    threat=ThreatModel(epsilon=EPSILON),
                    num_images=32,
                    draws=20,
                )
    else:
        raise ValueError(f"Expected protocol paper or quick, got {protocol!r}.")


GRID = Grid(
    title="MEFA protocol",
    cells=cells,
    tables=(
        Table(
            name="mefa_protocol",
            title="MEFA protocol",
            caption="`bench show CELL` has the own readings of the protocol: mean logits over 1, 30, 50 and 100 draws.",
            rows=("defense", "attack"),
            columns=("dataset",),
            values=("gradient", "robust"),
        ),
    ),
)
