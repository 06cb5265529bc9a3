"""What a draw of noise costs: launches and uploads on a pretend GPU, and time beside torch.randn on this CPU.

Run: `OMP_NUM_THREADS=1 python benchmarks/noise.py` in the root of the repository.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch
from ratios import Row, measured, ratio, seconds_in_turn, show

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from shadow_cuda import ShadowCuda  # noqa: E402

from defenses.noise import Noise  # noqa: E402

SHAPES = ((3, 1, 8, 8), (16, 1, 28, 28), (64, 3, 32, 32), (320, 3, 32, 32))
STEPS = 101  # a forward noise and 100 reverse steps


def launches(shape: tuple[int, ...]) -> tuple[float, int, int]:
    """Launches a draw, and uploads and waits of all draws, of a sampler's noise."""
    noise = Noise(1, torch.arange(shape[0]))
    with ShadowCuda() as gpu:
        like = torch.empty(shape, device="cuda")
        gpu.clear()
        for step in range(STEPS):
            noise.normal(like, step=step)
        return (
            sum(gpu.launches.values()) / STEPS,
            sum(gpu.uploads.values()),
            sum((gpu.waits + gpu.downloads).values()),
        )


def time_beside_torch(shape: tuple[int, ...], repeats: int) -> Row:
    """A draw of normals on this CPU over one of torch.randn, which no other device or batch would repeat."""
    noise, like, steps = Noise(1, torch.arange(shape[0])), torch.empty(shape), itertools.count()
    works = {"noise": lambda: noise.normal(like, step=next(steps)), "torch": lambda: torch.randn(shape)}
    took = seconds_in_turn(works, torch.device("cpu"), repeats)
    return ratio(f"{shape}: a draw over torch.randn", took["noise"], took["torch"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    args = parser.parse_args()
    rows = []
    for shape in SHAPES:
        per_draw, uploads, waits = launches(shape)
        rows.append(measured(f"{shape}: launches a draw", [per_draw], "<= 10"))
        rows.append(measured(f"{shape}: uploads of all {STEPS} draws", [uploads]))
        rows.append(measured(f"{shape}: waits of all {STEPS} draws", [waits], "0"))
        rows.append(time_beside_torch(shape, args.repeats))
    show(rows, {"steps": STEPS}, args.json)


if __name__ == "__main__":
    main()
