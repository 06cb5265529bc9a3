"""A small convolutional classifier for small grey images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three 3x3 convolutions and one linear layer, GELU between them (smooth: attacks may differentiate twice).

    Class attributes:
        feature_layers: names of the layers whose activations `features` returns.
    """

    feature_layers: ClassVar[tuple[str, ...]] = ("features.1", "features.3", "features.5")

    def __init__(self, size: int = 8, classes: int = 10, width: int = 32) -> None:
        """An untrained network.

        Args:
            size: height and width of the images.
            classes: number of classes.
            width: channels of the first convolution.
        """
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Linear(2 * width * (size // 2) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 1, size, size) in [0, 1] -> logits (batch, classes)."""
        return self.head(self.features(2 * images - 1).flatten(1))
