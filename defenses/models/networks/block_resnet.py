"""A classifier of 32x32 pictures that two CPU cores can train adversarially: a ResNet on 2x2 blocks of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, relu

from defenses.models.networks.normalized import CIFAR10_MEAN, CIFAR10_STD, Normalized


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class _Block(nn.Module):
    """The pre-activation block of He et al., "Identity mappings in deep residual networks" (ECCV 2016, Fig. 1b)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
        self.skip = _conv(inputs, outputs, stride, 1) if inputs != outputs or stride > 1 else None

    def forward(self, h: Tensor) -> Tensor:
        inner = relu(self.norm1(h))
        shortcut = h if self.skip is None else self.skip(inner)
        return shortcut + self.conv2(relu(self.norm2(self.conv1(inner))))


class BlockResNet(nn.Module):
    """A pre-activation ResNet whose first resolution is half the picture's.

    Class attributes:
        feature_layers: names of the layers whose activations `features` returns.
    """

    feature_layers: ClassVar[tuple[str, ...]] = ("stages.0", "stages.1", "stages.2")

    def __init__(self, widths: Sequence[int] = (64, 128, 256), blocks: int = 2, classes: int = 10) -> None:
        """An untrained network.

        Args:
            widths: channels of each resolution, largest resolution first.
            blocks: residual blocks of each resolution.
            classes: number of classes.
        """
        super().__init__()
        self.input = _conv(12, widths[0])
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                _Block(before, width, 1 if k == 0 else 2), *(_Block(width, width, 1) for _ in range(blocks - 1))
            )
            for k, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.norm, self.output = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (batch, 3, height, width), sides multiples of 8 -> logits (batch, classes)."""
        h = self.input(pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            h = stage(h)
        return self.output(relu(self.norm(h)).mean((2, 3)))


def block_resnet(widths: Sequence[int] = (64, 128, 256), blocks: int = 2, classes: int = 10) -> Normalized:
    """`BlockResNet`, whose arguments it takes, for pictures in [0, 1], normalised by CIFAR-10's mean and deviation."""
    return Normalized(BlockResNet(widths, blocks, classes), CIFAR10_MEAN, CIFAR10_STD)
