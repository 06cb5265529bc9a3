"""The toy classifier of the attacks' golden numbers, in float64, and closed forms of their recorded noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from defenses.base import Defended, Gradient
from defenses.noise import Noise


class Toy(nn.Module):
    """logits = tanh((x - 0.5) A1') A2'."""

    def __init__(self, g: dict[str, Tensor]) -> None:
        super().__init__()
        self.a1, self.a2 = g["A1"], g["A2"]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.a1.T) @ self.a2.T


def toy(
    g: dict[str, Tensor],
    purify: Callable[[Tensor, Noise], Tensor] = lambda x, noise: x,
    gradient: Gradient = "exact",
) -> Defended:
    """The toy classifier behind a purifier (none by default)."""
    return Defended(purify, Toy(g), gradient=gradient)


def wave(like: Tensor, call: int) -> Tensor:
    """The fixtures' noise of model call `call`: sin(12.9898 (i + 1) + 78.233 (call + 1)), i the flat index."""
    i = torch.arange(like.numel(), dtype=torch.float64)
    return torch.sin(12.9898 * (i + 1) + 78.233 * (call + 1)).view(like.shape)
