"""A small noise-prediction network for images of a few dozen pixels, smooth so that it can be differentiated twice."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from defenses.models.networks.preconditioned import Preconditioned


class _Block(nn.Module):
    """h + W2 silu(W1 silu(h) + V temb)."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.time = nn.Linear(time_width, width, bias=False)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        inner = self.first(nn.functional.silu(h)) + self.time(temb)
        return h + self.second(nn.functional.silu(inner))


class ScoreMLP(Preconditioned):
    """Residual multilayer perceptron; `Preconditioned` says what goes in and out.

    With classes it is conditional: the class number `classes`, or none, stands for any class (Ho & Salimans,
    "Classifier-free diffusion guidance", 2022).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        width: int = 256,
        blocks: int = 5,
        time_width: int = 64,
        classes: int = 0,
    ) -> None:
        """An untrained network.

        Args:
            image_shape: (channels, height, width).
            width: of the hidden layers.
            blocks: residual blocks.
            time_width: size of the embedded noise level, a multiple of 4.
            classes: number of classes that it can be told; 0 for none.
        """
        super().__init__(image_shape, time_width)
        pixels = math.prod(image_shape)
        self.time = nn.Sequential(nn.Linear(time_width // 2, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.input, self.output = nn.Linear(pixels, width), nn.Linear(width, pixels)
        self.classes = nn.Embedding(classes + 1, time_width) if classes else None
        self.blocks = nn.ModuleList(_Block(width, time_width) for _ in range(blocks))

    def _layers(self, pixels: Tensor, ratio: Tensor, classes: Tensor | None) -> Tensor:
        embedded = self.time(self._waves(ratio))
        if self.classes is not None:
            any_class = torch.full_like(ratio, self.classes.num_embeddings - 1, dtype=torch.int64)
            embedded = embedded + self.classes(any_class if classes is None else classes)
        temb = nn.functional.silu(embedded)
        h = self.input(pixels.flatten(1))
        for block in self.blocks:
            h = block(h, temb)
        return self.output(nn.functional.silu(h))
