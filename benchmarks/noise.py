"""What a draw of noise costs: launches and uploads on a pretend GPU, milliseconds on this CPU.

Run: `OMP_NUM_THREADS=1 python benchmarks/noise.py` in the root of the repository.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

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


def milliseconds(shape: tuple[int, ...]) -> float:
    """Median time of a draw on this CPU."""
    noise, like, taken = Noise(1, torch.arange(shape[0])), torch.empty(shape), []
    for step in range(21):
        start = time.perf_counter()
        noise.normal(like, step=step)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


if __name__ == "__main__":
    print(f"{'shape':20} {'ms on this CPU':>15} {'launches':>9} {'uploads':>8} {'waits':>6}  ({STEPS} steps)")
    for shape in SHAPES:
        per_draw, uploads, waits = launches(shape)
        print(f"{str(shape):20} {milliseconds(shape):15.2f} {per_draw:9.1f} {uploads:8d} {waits:6d}")
