"""Time and memory of every purifier over the bare network calls that it declares.

    python benchmarks/purifiers.py --steps 20 --batch 8
    python benchmarks/purifiers.py --only diffpure_sde contrastive --threads 2

A forward call is one unit, a forward call with input gradient is the other; ratios are over the time of the calls
alone. A gradient recomputes every step (a forward and a forward with gradient a step), or keeps the whole graph. The
graph's memory is tested, not timed (tests/defenses/diffusion/test_scan.py). Guided purifiers also call the classifier,
which counts against them here.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from ratios import Row, Work, ratio, seconds_in_turn, show
from torch import Tensor, nn

from defenses.base import Purifier, defenses
from defenses.models.score_models import NetworkScore, times
from defenses.noise import Noise


def unet(width: int, size: int, device: torch.device) -> NetworkScore:
    """An untrained diffusers U-Net; the shape of the literature's networks at a fraction of their width."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=size,
        block_out_channels=(width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=2,
        norm_num_groups=8,
    )
    network = network.to(device).eval().requires_grad_(False)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, {size}x{size} pixels, {device}")
    return NetworkScore(lambda x, label: network(x, label).sample, (3, size, size))


def bare(score: NetworkScore, x: Tensor, calls: int) -> tuple[Work, Work]:
    """`calls` network calls alone: without a gradient, and each with the gradient of its input."""

    def forward() -> None:
        with torch.no_grad():
            for _ in range(calls):
                score.epsilon(x, times(x, 0.05))

    def differentiated() -> None:
        for _ in range(calls):
            leaf = x.detach().requires_grad_()
            out = score.epsilon(leaf, times(x, 0.05))
            torch.autograd.grad(out, leaf, torch.ones_like(out))

    return forward, differentiated


def of(purifier: Purifier, classifier: nn.Module, score: NetworkScore, x: Tensor, every: int) -> tuple[Work, Work]:
    """Purify, and purify with its exact gradient, `checkpoint_every` given."""
    variant = copy.copy(purifier)
    object.__setattr__(variant, "checkpoint_every", every)
    purify = variant.build(classifier=classifier, score=score)
    noise = Noise(0, torch.arange(len(x)))

    def plain() -> Tensor:
        with torch.no_grad():
            return purify(x, noise)

    def gradient() -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(purify(leaf, noise).sum(), leaf)[0]

    return plain, gradient


def compare(name: str, steps: int, score: NetworkScore, x: Tensor, repeats: int) -> list[Row]:
    """Ratios of a purifier with `steps` reverse steps from t = 0.1."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)).to(x).requires_grad_(False)
    purifier = defenses.make(name, {"t": 0.1, "steps": steps})
    forward, differentiated = bare(score, x, purifier.network_evaluations)
    plain, recomputed = of(purifier, classifier, score, x, 1)
    works = {
        "forward": forward, "differentiated": differentiated, "plain": plain, "recomputed": recomputed,
        "kept": of(purifier, classifier, score, x, 0)[1],
    }  # fmt: skip
    took = seconds_in_turn(works, x.device, repeats)
    both = [a + b for a, b in zip(took["forward"], took["differentiated"], strict=True)]
    return [
        ratio(f"{name}: purify over its network calls", took["plain"], took["forward"], "<= 1.05"),
        ratio(f"{name}: gradient, every step recomputed", took["recomputed"], both, "<= 1.10"),
        ratio(f"{name}: gradient, graph kept", took["kept"], took["differentiated"], "<= 1.10"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="reverse steps from t = 0.1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="pixels a side, a multiple of 4")
    parser.add_argument("--width", type=int, default=64, help="channels of the first level")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    parser.add_argument("--only", nargs="*", default=["diffpure_sde", "diffpure_ode", "contrastive", "ddpm", "gdmp"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    score = unet(args.width, args.size, device)
    x = torch.rand(args.batch, *score.image_shape, generator=torch.Generator().manual_seed(2)).to(device)
    rows = [row for name in args.only for row in compare(name, args.steps, score, x, args.repeats)]
    show(rows, {"images": args.batch, "pixels": args.size, "steps": args.steps, "device": args.device}, args.json)


if __name__ == "__main__":
    main()
