"""A network that answers with an object, as one that answers with logits."""

from __future__ import annotations

from torch import Tensor, nn


class Logits(nn.Module):
    """The attribute `logits` of what a network answers, as transformers' classifiers do.

    Attributes:
        network: images -> an object with `logits` (batch, classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (batch, channels, height, width)."""
        return self.network(images).logits
