"""A noise-prediction U-Net for 32x32 pictures that two CPU cores can train: it works on 2x2 blocks of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from defenses.models.networks.preconditioned import Preconditioned

GROUP = 16  # channels that are normalised together; smaller groups are slow in channels_last on a CPU


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class _Block(nn.Module):
    """h + conv(silu(scale norm(conv(silu(norm(h)))) + shift)), scale and shift from the noise level."""

    def __init__(self, channels: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), _conv(channels, channels)
        self.time = nn.Linear(time_width, 2 * channels)
        self.norm2, self.conv2 = _norm(channels), _zero(_conv(channels, channels))

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        scale, shift = self.time(temb)[:, :, None, None].chunk(2, 1)
        inner = self.norm2(self.conv1(silu(self.norm1(h)))) * (1 + scale) + shift
        return h + self.conv2(silu(inner))


class _Attention(nn.Module):
    """Self-attention over positions (Vaswani et al., NeurIPS 2017), plain so that it can be differentiated twice."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.heads = channels // width
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        b, c, rows, columns = h.shape
        q, k, v = self.qkv(self.norm(h)).view(b, 3, self.heads, c // self.heads, rows * columns).unbind(1)
        weights = (q.transpose(-1, -2) @ k * (c // self.heads) ** -0.5).softmax(-1)
        return h + self.out((v @ weights.transpose(-1, -2)).reshape(b, c, rows, columns))


class BlockUNet(Preconditioned):
    """U-Net of two resolutions below the picture's: 2x2 blocks of pixels, and 4x4 with attention in the middle.

    `Preconditioned` says what goes in and out; height and width are multiples of 4.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        widths: tuple[int, int] = (128, 256),
        blocks: tuple[int, int, int] = (2, 4, 2),
        time_width: int = 256,
    ) -> None:
        """An untrained network, which predicts no noise.

        Args:
            image_shape: (channels, height, width).
            widths: channels of the two resolutions, multiples of 64.
            blocks: residual blocks on the way down, in the middle, on the way up.
            time_width: size of the embedded noise level, a multiple of 4.
        """
        super().__init__(image_shape, time_width)
        pixels, (fine, coarse) = 4 * image_shape[0], widths
        self.time = nn.Sequential(nn.Linear(time_width // 2, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.input, self.output = _conv(pixels, fine), nn.Sequential(_norm(fine), nn.SiLU(), _conv(fine, pixels))
        self.down, self.up = _conv(fine, coarse, 2), nn.Conv2d(coarse, 4 * fine, 1)
        self.before, self.middle, self.after = (
            nn.ModuleList(_Block(width, time_width) for _ in range(count))
            for width, count in zip((fine, coarse, fine), blocks, strict=True)
        )
        self.attention = _Attention(coarse)

    def _layers(self, pixels: Tensor, ratio: Tensor, classes: Tensor | None) -> Tensor:
        temb = silu(self.time(self._waves(ratio)))
        h = self.input(pixel_unshuffle(pixels, 2).contiguous(memory_format=torch.channels_last))
        for block in self.before:
            h = block(h, temb)
        skipped, h = h, self.down(h)
        for k, block in enumerate(self.middle):
            h = block(h, temb)
            if k == len(self.middle) // 2 - 1:
                h = self.attention(h)
        h = pixel_shuffle(self.up(h), 2).contiguous(memory_format=torch.channels_last) + skipped
        for block in self.after:
            h = block(h, temb)
        return pixel_shuffle(self.output(h), 2)
