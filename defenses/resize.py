"""Purification at the size that a score network was trained for, where the classifier's images have another."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import interpolate

from defenses.noise import NoiseSource


def at_size(
    purify: Callable[[Tensor, NoiseSource], Tensor], size: tuple[int, int]
) -> Callable[[Tensor, NoiseSource], Tensor]:
    """`purify` on images of `size` (height, width): bilinear there and back, corners not aligned, no antialiasing.

    As DiffPure (Nie et al., ICML 2022; released code) does on ImageNet, 224 to 256 and back. Images of that size
    already pass as they are.
    """

    def resized(images: Tensor, noise: NoiseSource) -> Tensor:
        given = tuple(images.shape[-2:])
        if given == size:
            return purify(images, noise)
        return _to(given, purify(_to(size, images), noise))

    return resized


def _to(size: tuple[int, ...], images: Tensor) -> Tensor:
    return interpolate(images, size=size, mode="bilinear", align_corners=False)
