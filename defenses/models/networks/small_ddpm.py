"""A DDPM of 28x28 grey pictures: the network behind the public weights of B. Pulfer's `PapersReimplementations`.

The names are those of its files, whose architecture docs/methods.md (Networks) describes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

LEVELS, EMBEDDING = 1000, 100


class _Block(nn.Module):
    """A normalisation over the whole picture and two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, side: int, *, normalized: bool = True) -> None:
        super().__init__()
        self.normalized = normalized
        self.ln = nn.LayerNorm((inputs, side, side))
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        h = self.ln(h) if self.normalized else h
        return silu(self.conv2(silu(self.conv1(h))))


def _blocks(side: int, *channels: int, last_normalized: bool = True) -> nn.Sequential:
    pairs = list(zip(channels, channels[1:], strict=False))
    return nn.Sequential(
        *(
            _Block(inputs, outputs, side, normalized=last_normalized or k < len(pairs) - 1)
            for k, (inputs, outputs) in enumerate(pairs)
        )
    )


def _time(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(EMBEDDING, channels), nn.SiLU(), nn.Linear(channels, channels))


def _down(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 4, 2, 1)


def _up(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 4, 2, 1)


class SmallDDPM(nn.Module):
    """A U-Net of 10, 20 and 40 channels; the level is added to each channel, at each resolution.

    The table of the levels' embeddings comes with the weights. The very last block has a normalisation which it was
    trained without, so that is not applied.
    """

    def __init__(self) -> None:
        """An untrained network."""
        super().__init__()
        self.time_embed = nn.Embedding(LEVELS, EMBEDDING)
        self.te1, self.b1, self.down1 = _time(1), _blocks(28, 1, 10, 10, 10), _down(10)
        self.te2, self.b2, self.down2 = _time(10), _blocks(14, 10, 20, 20, 20), _down(20)
        self.te3, self.b3 = _time(20), _blocks(7, 20, 40, 40, 40)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2, 1), nn.SiLU(), _down(40))
        self.te_mid, self.b_mid = _time(40), _blocks(3, 40, 20, 20, 40)
        self.up1 = nn.Sequential(_up(40), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2, 1))
        self.te4, self.b4, self.up2 = _time(80), _blocks(7, 80, 40, 20, 20), _up(20)
        self.te5, self.b5, self.up3 = _time(40), _blocks(14, 40, 20, 10, 10), _up(10)
        self.te_out, self.b_out = _time(20), _blocks(28, 20, 10, 10, 10, last_normalized=False)
        self.conv_out = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Predicted noise.

        Args:
            x: (batch, 1, 28, 28), a state of the diffusion.
            label: (batch,) whole numbers in 0..999, of any dtype.
        """
        embedded = self.time_embed(label.long())

        def at(layer: nn.Module) -> Tensor:
            return layer(embedded)[:, :, None, None]

        first = self.b1(x + at(self.te1))
        second = self.b2(self.down1(first) + at(self.te2))
        third = self.b3(self.down2(second) + at(self.te3))
        h = self.b_mid(self.down3(third) + at(self.te_mid))
        h = self.b4(torch.cat((third, self.up1(h)), 1) + at(self.te4))
        h = self.b5(torch.cat((second, self.up2(h)), 1) + at(self.te5))
        h = self.b_out(torch.cat((first, self.up3(h)), 1) + at(self.te_out))
        return self.conv_out(h)
