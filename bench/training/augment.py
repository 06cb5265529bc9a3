"""Small random affine maps, the only augmentation that keeps a digit a digit."""

from __future__ import annotations

import torch
from torch import Tensor


def jitter(
    images: Tensor,
    generator: torch.Generator,
    *,
    share: float = 1.0,
    degrees: float = 8.0,
    scale: float = 0.08,
    shift: float = 0.06,
) -> Tensor:
    """Rotate, scale and shift images at random (bilinear, black outside).

    Args:
        images: (batch, channels, height, width) in [0, 1].
        generator: of the random draws.
        share: of the images that are changed at all, in [0, 1].
        degrees: half-width of the uniform range of angles.
        scale: half-width of the uniform range of zooms around 1.
        shift: half-width of the uniform range of shifts, as a fraction of the image's half width.
    """
    count = len(images)
    chosen = torch.rand(count, generator=generator) < share
    r = (torch.rand(4, count, generator=generator) * 2 - 1) * chosen
    angle, zoom = r[0] * (degrees * torch.pi / 180), 1 + r[1] * scale
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack((cos, -sin, r[2] * shift, sin, cos, r[3] * shift), 1).view(count, 2, 3)
    grid = torch.nn.functional.affine_grid(rows, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False).clamp(0, 1)
