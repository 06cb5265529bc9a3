"""Counts network evaluations while a cell runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Meter:
    """Counts images through a network: one unit for a forward pass, one more for each backward pass.

    Use it in a `with` statement.

    Args:
        networks: what is counted.

    Attributes:
        units: images counted since `take` was last called.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self.units = 0
        self._handles = [network.register_forward_hook(self._forward) for network in networks]

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def take(self) -> int:
        """Return the units since the last call, and start again at 0."""
        units, self.units = self.units, 0
        return units

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        images = len(inputs[0])
        self.units += images
        out = output if isinstance(output, Tensor) else getattr(output, "sample", None)
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda gradient: self._backward(images))

    def _backward(self, images: int) -> None:
        self.units += images
