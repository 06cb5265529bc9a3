"""A small smooth energy of images of a few dozen pixels; its gradient can be differentiated again."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _Block(nn.Module):
    """h + W2 silu(W1 silu(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor) -> Tensor:
        silu = nn.functional.silu
        return h + self.second(silu(self.first(silu(h))))


class EnergyMLP(nn.Module):
    """E(x) = |x - D(x)|^2 / (2 sigma^2), D a residual multilayer perceptron.

    The negative log density of data plus N(0, sigma^2), up to a constant, in the form of Salimans & Ho, "Should EBMs
    model the energy or the score?" (ICLR 2021 workshop, Eq. 7).

    Attributes:
        sigma: standard deviation of the noise that it is trained with, [-1, 1] units, > 0.
        mean: mean training image, taken off the input.
        std: standard deviation of the rest, by which the input is scaled: layers see numbers of size one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int] = (1, 8, 8), width: int = 160, blocks: int = 3, sigma: float = 0.3
    ) -> None:
        """An untrained energy.

        Args:
            image_shape: (channels, height, width).
            width: of the hidden layers.
            blocks: residual blocks.
            sigma: see the class.

        Raises:
            ValueError: sigma is not positive.
        """
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"Expected sigma > 0, got {sigma}.")
        self.sigma = sigma
        pixels = math.prod(image_shape)
        self.register_buffer("mean", torch.zeros(image_shape))
        self.register_buffer("std", torch.ones(()))
        self.layers = nn.Sequential(
            nn.Linear(pixels, width), *(_Block(width) for _ in range(blocks)), nn.SiLU(), nn.Linear(width, pixels)
        )

    def fit_scale(self, x: Tensor) -> None:
        """Take the mean image and the residual standard deviation from training data x in [-1, 1]."""
        self.mean.copy_(x.mean(0))
        self.std.copy_((x - self.mean).square().mean().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) in the [-1, 1] space -> energies (batch,)."""
        centred = (x - self.mean).flatten(1)
        scale = (self.std.square() + self.sigma**2).sqrt()
        denoised = self.std * self.layers(centred / scale)
        return (centred - denoised).square().sum(1) / (2 * self.sigma**2)
