"""Pictures as bytes for training, and a grid of what a fresh score network makes of some."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench.datasets import ImageSet
from bench.training.score import Predict, diffuse, purify
from defenses.diffusion.schedule import to_image_space, to_model_space

HANDED = ("digits", "mnist", "gtsrb")  # a mirrored picture is another one, or none


def bytes_of(data: ImageSet) -> Tensor:
    """All pictures as uint8 (N, channels, height, width)."""
    parts = [range(k, min(k + 1000, len(data))) for k in range(0, len(data), 1000)]
    return torch.cat([(data.images(part) * 255).round().to(torch.uint8) for part in parts])


def pixels_of(images: Tensor, rows: Tensor) -> Tensor:
    """Rows of uint8 pictures as float32 in [-1, 1]."""
    return images[rows.to(images.device)].float() / 127.5 - 1


def draw_purified(network: Predict, images: Tensor, path: Path, *, times: tuple[float, ...], steps: int = 50) -> None:
    """A PNG with a row for each picture: itself, then noised and purified at each time.

    Args:
        network: (x_t, label) -> noise.
        images: (n, channels, height, width) in [0, 1].
        path: of the PNG.
        times: diffusion times in (0, 1].
        steps: reverse steps.
    """
    from torchvision.utils import save_image

    columns = [images]
    for t in times:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        noisy = diffuse(to_model_space(images), torch.full((len(images),), t), noise)
        columns += [to_image_space(noisy).clamp(0, 1), purify(network, images, t=t, steps=steps)]
    save_image(torch.stack(columns, 1).flatten(0, 1), path, nrow=len(columns), padding=1)
