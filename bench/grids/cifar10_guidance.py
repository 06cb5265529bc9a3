"""Does contrastive guidance buy robustness on CIFAR-10? DiffPure with and without it, on three samples of pictures.

The main rows of `cifar10_small` (Linf 8/255, reverse ODE in five steps, PGD-10 with fresh noise at each step, three
judging draws), three times: each seed draws 128 test pictures of its own. docs/findings.md answers with these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.cell import Cell
from bench.grids.cifar10_small import CAPTION, main_rows
from bench.grids.grid import Grid
from bench.report import Table

SEEDS = (1, 2, 3)
IMAGES = 128  # of each seed


def seeds_of(cell: Cell) -> tuple[Cell, ...]:
    """A cell with each seed, which draws the pictures and the noise."""
    return tuple(replace(cell, num_images=IMAGES, data_seed=seed, seed=seed) for seed in SEEDS)


def cells() -> Iterator[Cell]:
    """All kinds of gradient with the first seed, then with the next."""
    yield from (cell for together in zip(*map(seeds_of, main_rows("Linf")), strict=True) for cell in together)


GRID = Grid(
    title="Guidance on CIFAR-10, small networks",
    cells=cells,
    tables=(
        Table(
            name="guidance",
            title="Guidance on CIFAR-10, small networks",
            caption=CAPTION,
            rows=("defense",),
            columns=("gradient",),
            values=("robust",),
        ),
    ),
)
