"""What an attack loses by computing in bfloat16: the same cells attacked in float32 and in bfloat16.

PGD on every defense of `digits_defenses` with a score network (256 digits) and on eight rows of `cifar10_small` (64
pictures), under each gradient that passes through the network. Judged in float32 on the same pictures and draws.
docs/performance.md holds the paired tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.cell import Cell
from bench.grids import cifar10_small, digits_attacks, digits_defenses
from bench.grids.grid import Grid
from bench.report import Table
from defenses.diffpure_sde import DiffPureSDE


def float32_cells() -> Iterator[Cell]:
    """The cells of the two grids whose attack can compute in bfloat16, digits first."""
    others = (*cifar10_small.OTHERS[:3], cifar10_small.PER_IMAGE, DiffPureSDE(t=0.1, steps=20))
    small = (cell for defense in others for cell in cifar10_small.without_transfer(defense, "Linf"))
    digits = (
        replace(cell, attack=digits_attacks.PGD, num_images=256, batch_size=64) for cell in digits_defenses.cells()
    )
    for cell in (*digits, *cifar10_small.main_rows("Linf"), *small):
        if cell.threat.gradient in ("exact", "guidance_detached") and cell.can_be_attacked_in("bfloat16"):
            yield cell


def cells() -> Iterator[Cell]:
    """Each cell in float32, then in bfloat16."""
    for cell in float32_cells():
        yield cell
        yield cell.attacked_in("bfloat16")


GRID = Grid(
    title="Attacks in bfloat16",
    cells=cells,
    tables=(
        Table(
            name="precision",
            title="Attacks in bfloat16",
            rows=("defense", "gradient"),
            columns=("attack_precision",),
            values=("robust",),
        ),
    ),
)
