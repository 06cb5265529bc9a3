"""Accuracy against the diffusion time t on CIFAR-10, on the small networks of `cifar10_small`.

The paper uses t = 0.075 (L2), 0.1 and 0.125; it does not say how it derives them, and the sweep claims nothing about
that. The reverse ODE under its exact gradient, and contrastive guidance with the guidance held constant
(docs/findings.md). The curve is drawn by `bench report --grid cifar10_noise_level --format svg`.
"""

from __future__ import annotations

from bench.cell import Cell
from bench.grids.cifar10_small import CAPTION, cell, contrastive, diffpure
from bench.grids.grid import Grid
from bench.report import Curve, Table

TIMES = (0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.25)


def cells() -> list[Cell]:
    """DiffPure at every t on 128 pictures, then contrastive guidance on a batch of 64."""
    plain = (cell(diffpure(t), "exact", images=128) for t in TIMES)
    return [*plain, *(cell(contrastive(t), "guidance_detached") for t in TIMES)]


GRID = Grid(
    title="Noise level on CIFAR-10, small networks",
    cells=cells,
    tables=(
        Table(
            name="sweep",
            title="Noise level on CIFAR-10, small networks",
            caption=CAPTION,
            rows=("defense",),
            columns=("gradient",),
            values=("robust",),
        ),
    ),
    curve=Curve(x="t", x_label="diffusion time t", title="CIFAR-10, ResNet-56, small score network, Linf 8/255"),
)
