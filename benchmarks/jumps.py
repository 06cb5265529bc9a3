"""Why the exact gradient of guided purification misleads: guidance is the gradient of a ReLU network, and it jumps.

In float64, at a random start in the ball: the slope that a gradient promises along a direction, and the central
difference over several lengths. Where the two agree only at the shortest, the gradient is right and the function jumps
between here and there: no derivative tells of that.

    BENCH_DATA_DIR=... python benchmarks/jumps.py [--images 8]

needs CIFAR-10 and its classifier (`bench fetch cifar10_small`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.cell import Cell
from bench.grids import cifar10_small
from bench.run.prepare import Loader
from defenses import Defense, Gradient
from defenses.noise import Noise

LENGTHS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # L2, in image units; epsilon 8/255 is an L2 length of 1.7
GUIDED = cifar10_small.contrastive(cifar10_small.LEVELS["Linf"])
ROWS: Sequence[tuple[str, Defense, Gradient]] = (
    ("DiffPure (ODE), exact", cifar10_small.diffpure(cifar10_small.LEVELS["Linf"]), "exact"),
    ("contrastive guidance, exact", GUIDED, "exact"),
    ("contrastive guidance, guidance_detached", GUIDED, "guidance_detached"),
)


def measure(cell: Cell, images: int) -> tuple[float, list[float]]:
    """The slope along a direction between the gradient and a random one, and its differences, one for each length."""
    prepared = Loader(torch.device("cpu")).prepare(cell)
    prepared.classifier.double()
    if prepared.score is not None:
        prepared.score.double()
    chosen = prepared.indices[:images]
    clean, labels = prepared.data.images(chosen).double(), prepared.data.labels[chosen]
    generator = torch.Generator().manual_seed(0)
    away = torch.rand(clean.shape, generator=generator, dtype=clean.dtype) * 2 - 1
    start = (clean + cell.threat.epsilon * away).clamp(0, 1)
    model, noise = prepared.model(), Noise(3, torch.as_tensor(chosen))

    def objective(x: Tensor) -> Tensor:
        return model(x, noise).log_softmax(1).gather(1, labels[:, None]).sum()

    x = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x), x)
    random = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    way = gradient / gradient.norm() + random / random.norm()
    way /= way.norm()
    with torch.no_grad():
        found = [float(objective(start + h * way) - objective(start - h * way)) / (2 * h) for h in LENGTHS]
    return float((gradient * way).sum()), found


def main() -> None:
    """Print a table: the relative error of the slope at each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    asked = parser.parse_args()
    print(f"{asked.images} images of one batch, float64; relative error of the slope, by length")
    print(f"{'':42s}" + "".join(f"{h:>10.0e}" for h in LENGTHS))
    for name, defense, kind in ROWS:
        slope, found = measure(cifar10_small.cell(defense, kind), asked.images)
        print(f"{name:42s}" + "".join(f"{abs(d - slope) / abs(slope):10.1g}" for d in found), flush=True)


if __name__ == "__main__":
    main()
