"""Exact gradient through `scan` beside torchsde's and torchdiffeq's adjoint: time, memory and error, the same network.

    python benchmarks/adjoint.py --steps 100 --batch 8
    python benchmarks/adjoint.py --device cuda --repeats 5

Every row purifies and differentiates the same images with the same noise. The network is an untrained U-Net, so the
errors belong to it; those of a stiffer network are larger. "Error" is max |g - exact| / max |exact|, where exact is
plain autograd through all the steps. Time is the clock's on a GPU and the processor's on a CPU, which others may
share. Memory is the peak of the GPU's allocator; on a CPU it is not measured.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from defenses.base import Gradient
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

Run = Callable[[], Tensor]
BLOCKS = ("DownBlock2D",) * 3, ("UpBlock2D",) * 3


def small_unet(size: int, device: torch.device) -> NetworkScore:
    """An untrained U-Net of over a million parameters: the cost of a step is the network's."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network: Any = UNet2DModel(
        sample_size=size,
        block_out_channels=(32, 64, 96),
        down_block_types=BLOCKS[0],
        up_block_types=BLOCKS[1],
        layers_per_block=1,
        norm_num_groups=8,
    )
    network = network.to(device).eval().requires_grad_(False)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, {size}x{size} pixels, {device}")
    return NetworkScore(lambda x, label: network(x, label).sample, (3, size, size))


def gradient_of(purifier: DiffusionPurifier, score: NetworkScore, images: Tensor, gradient: Gradient) -> Run:
    """A function that purifies once and returns the gradient of a fixed read-out."""
    readout = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(images)
    purify = purifier.build(score=score, gradient=gradient)
    noise = Noise(0, torch.arange(len(images)))

    def run() -> Tensor:
        x = images.clone().requires_grad_()
        (found,) = torch.autograd.grad((purify(x, noise) * readout).sum(), x)
        return found

    return run


def checkpointed(purifier: DiffusionPurifier, every: int | None) -> DiffusionPurifier:
    """The purifier with another `checkpoint_every`."""
    variant = copy.copy(purifier)
    object.__setattr__(variant, "checkpoint_every", every)
    return variant


def measure(run: Run, device: torch.device, repeats: int) -> tuple[Tensor, float, str]:
    """Gradient, median seconds, and peak memory where the device counts it."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    found, seconds = run(), []
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats):
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB" if cuda else "-"
    return found, statistics.median(seconds), memory


def compare(purifier: DiffusionPurifier, adjoint: str, score: NetworkScore, images: Tensor, repeats: int) -> None:
    """Print one line a method; the first is the reference."""
    methods: list[tuple[str, DiffusionPurifier, Gradient]] = [
        ("plain autograd", checkpointed(purifier, 0), "exact"),
        ("scan", purifier, "exact"),
        ("scan, every step recomputed", checkpointed(purifier, 1), "exact"),
        (adjoint, purifier, "adjoint"),
    ]
    exact: Tensor | None = None
    for label, variant, kind in methods:
        found, seconds, memory = measure(gradient_of(variant, score, images, kind), images.device, repeats)
        exact = found if exact is None else exact
        error = float((found - exact).abs().max() / exact.abs().max())
        cosine = float(torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0))
        print(f"{purifier.name:13} {label:32} {seconds:9.2f} s {memory:>9}  error {error:.1e}  cosine {cosine:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="reverse steps from t = 0.1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="pixels a side, a multiple of 8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    score = small_unet(args.size, device)
    images = torch.rand(args.batch, *score.image_shape, generator=torch.Generator().manual_seed(2)).to(device)
    print(f"{args.batch} images, {args.steps} steps")
    compare(DiffPureSDE(t=0.1, steps=args.steps), "torchsde sdeint_adjoint", score, images, args.repeats)
    compare(DiffPureODE(t=0.1, steps=args.steps), "torchdiffeq odeint_adjoint", score, images, args.repeats)


if __name__ == "__main__":
    main()
