"""A small noise-prediction network for images of a few dozen pixels, smooth so that it can be differentiated twice."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import VPSchedule


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


class ScoreMLP(nn.Module):
    """Residual multilayer perceptron that predicts epsilon of x_t = sqrt(alpha_bar) x_0 + sigma epsilon.

    forward(x_t, label): x_t (batch, channels, height, width) in the [-1, 1] space, label (batch,) real in [0, 999],
    the time 999 t of the continuous VP-SDE. Input and output are scaled as in Karras et al., "Elucidating the design
    space of diffusion-based generative models" (NeurIPS 2022, Table 1) for data of mean `mean` and standard deviation
    `std`, so the layers see and predict numbers of size one at every noise level; epsilon stays finite at t = 0.

    classes: where positive, forward also takes the images' classes (batch,); the value `classes`, or no argument,
    stands for any class (Ho & Salimans, "Classifier-free diffusion guidance", 2022).
    """

    mean: Tensor
    std: Tensor
    frequencies: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        width: int = 256,
        blocks: int = 5,
        time_width: int = 64,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        pixels = math.prod(image_shape)
        self.register_buffer("mean", torch.zeros(image_shape))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-1, 3, time_width // 4))
        self.time = nn.Sequential(nn.Linear(time_width // 2, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.input, self.output = nn.Linear(pixels, width), nn.Linear(width, pixels)
        self.classes = nn.Embedding(classes + 1, time_width) if classes else None
        self.blocks = nn.ModuleList(_Block(width, time_width) for _ in range(blocks))

    def fit_scale(self, x: Tensor) -> None:
        """Take the mean image and the residual standard deviation from training data x in [-1, 1]."""
        self.mean.copy_(x.mean(0))
        self.std.copy_((x - self.mean).square().mean().sqrt())

    def forward(self, x_t: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        ratio, inverse_signal = self._noise_to_signal(label, x_t)
        noisy = x_t * inverse_signal - self.mean  # x_0 - mean + ratio * epsilon
        total = (ratio.square() + self.std.square()).sqrt()
        inner = self._layers((noisy / total).flatten(1), ratio.flatten(), classes)
        return (ratio * noisy / total - self.std * inner.view_as(x_t)) / total

    def _noise_to_signal(self, label: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """sigma / sqrt(alpha_bar) and 1 / sqrt(alpha_bar), each (batch, 1, 1, 1)."""
        schedule, t = VPSchedule(), label.to(x_t.dtype).view(-1, 1, 1, 1) / 999
        inverse_signal = schedule.alpha_bar(t).rsqrt()
        return schedule.sigma(t) * inverse_signal, inverse_signal

    def _layers(self, pixels: Tensor, ratio: Tensor, classes: Tensor | None) -> Tensor:
        angles = ratio.clamp(min=1e-4).log().unsqueeze(1) * self.frequencies / 4
        embedded = self.time(torch.cat((angles.sin(), angles.cos()), 1))
        if self.classes is not None:
            any_class = torch.full_like(ratio, self.classes.num_embeddings - 1, dtype=torch.int64)
            embedded = embedded + self.classes(any_class if classes is None else classes)
        temb = nn.functional.silu(embedded)
        h = self.input(pixels)
        for block in self.blocks:
            h = block(h, temb)
        return self.output(nn.functional.silu(h))
