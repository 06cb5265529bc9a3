"""The CIFAR ResNet with parameter-free shortcuts (He et al., CVPR 2016, section 4.2, option A)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from defenses.models.networks.normalized import CIFAR10_MEAN, CIFAR10_STD, Normalized


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class _Block(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut that skips pixels and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1, self.bn1 = _conv(inputs, outputs, self.stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        missing = (h.shape[1] - x.shape[1]) // 2
        return relu(h + pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, missing, missing)))


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for 32x32 pictures: stem, three stages of n blocks (16, 32, 64 channels), linear head.

    Class attributes:
        feature_layers: names of the layers whose activations `features` returns.
    """

    feature_layers: ClassVar[tuple[str, ...]] = ("layer1", "layer2", "layer3")

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        """An untrained network.

        Args:
            depth: layers, 6n + 2.
            classes: number of classes.

        Raises:
            ValueError: another depth.
        """
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"Expected a depth of 6n + 2 layers (8, 14, 20, ...), got {depth}.")
        self.conv1, self.bn1 = _conv(3, 16), nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(_Block(inputs if i == 0 else outputs, outputs) for i in range(blocks)))
            for inputs, outputs in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (batch, 3, 32, 32) -> logits (batch, classes)."""
        h = relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(h))).mean((2, 3)))


def cifar_resnet(depth: int = 20, classes: int = 10) -> Normalized:
    """`CifarResNet`, whose arguments it takes, for pictures in [0, 1], normalised by CIFAR-10's mean and deviation."""
    return Normalized(CifarResNet(depth, classes), CIFAR10_MEAN, CIFAR10_STD)
