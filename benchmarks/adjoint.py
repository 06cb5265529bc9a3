"""Exact gradient through `scan` beside torchsde's and torchdiffeq's adjoint: time, memory and error, the same network.

    python benchmarks/adjoint.py --steps 100 --batch 8
    python benchmarks/adjoint.py --device cuda --repeats 5

Every row purifies and differentiates the same images with the same noise. The network is an untrained U-Net, so the
errors belong to it; those of a stiffer network are larger. "Error" is max |g - exact| / max |exact|, where exact is
plain autograd through all the steps. `scan` keeps the graph where it fits, as autograd does. Memory is the peak of the
GPU's allocator; on a CPU it is not measured.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ratios import Row, ratio, seconds_in_turn, show
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


def compare(purifier: DiffusionPurifier, adjoint: str, score: NetworkScore, images: Tensor, repeats: int) -> list[Row]:
    """How fast each exact gradient is beside the adjoint, in turn, and how wrong the adjoint is."""
    methods: list[tuple[str, DiffusionPurifier, Gradient]] = [
        (adjoint, purifier, "adjoint"),
        ("plain autograd", checkpointed(purifier, 0), "exact"),
        ("scan", purifier, "exact"),
        ("scan, every step recomputed", checkpointed(purifier, 1), "exact"),
    ]
    works = {label: gradient_of(variant, score, images, kind) for label, variant, kind in methods}
    found = {label: work() for label, work in works.items()}
    exact = found["plain autograd"]
    for label, gradient in found.items():
        error = float((gradient - exact).abs().max() / exact.abs().max())
        cosine = float(torch.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0))
        print(f"{purifier.name:13} {label:32} error {error:.1e}  cosine {cosine:.5f}{peak(works[label], images)}")
    seconds = seconds_in_turn(works, images.device, repeats)
    name = f"{purifier.name}: {{}}, as fast as {adjoint}"
    goals = {"plain autograd": "", "scan": ">= 1.9", "scan, every step recomputed": ">= 1.3"}
    return [ratio(name.format(label), seconds[adjoint], seconds[label], goal) for label, goal in goals.items()]


def peak(work: Run, images: Tensor) -> str:
    """Peak memory of a call, where the device counts it."""
    if images.device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats(images.device)
    work()
    return f"  {torch.cuda.max_memory_allocated(images.device) / 2**30:.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="reverse steps from t = 0.1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="pixels a side, a multiple of 8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    args = parser.parse_args()
    device = torch.device(args.device)
    score = small_unet(args.size, device)
    images = torch.rand(args.batch, *score.image_shape, generator=torch.Generator().manual_seed(2)).to(device)
    rows = compare(DiffPureSDE(t=0.1, steps=args.steps), "torchsde", score, images, args.repeats)
    rows += compare(DiffPureODE(t=0.1, steps=args.steps), "torchdiffeq", score, images, args.repeats)
    show(rows, {"images": args.batch, "pixels": args.size, "steps": args.steps, "device": args.device}, args.json)


if __name__ == "__main__":
    main()
