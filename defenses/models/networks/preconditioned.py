"""What every noise-prediction network of ours shares: inputs and outputs of size one at every noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import VPSchedule


class Preconditioned(nn.Module):
    """Predicts epsilon of x_t = sqrt(alpha_bar) x_0 + sigma epsilon through layers that a subclass defines.

    Input and output are scaled as in Karras et al., "Elucidating the design space of diffusion-based generative models"
    (NeurIPS 2022, Table 1), so the layers see and predict numbers of size one at every noise level; epsilon stays
    finite at t = 0.

    Attributes:
        image_shape: (channels, height, width).
        mean: mean training image, [-1, 1] units.
        std: standard deviation of what is left without it.
        frequencies: of the Fourier features of the noise level.
    """

    mean: Tensor
    std: Tensor
    frequencies: Tensor

    def __init__(self, image_shape: tuple[int, int, int], time_width: int) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.register_buffer("mean", torch.zeros(image_shape))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-1, 3, time_width // 4))

    def fit_scale(self, x: Tensor) -> None:
        """Take the mean image and the residual standard deviation from training data x in [-1, 1]."""
        self.mean.copy_(x.mean(0))
        self.std.copy_((x - self.mean).square().mean().sqrt())

    def forward(self, x_t: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        """Predicted noise, shape of `x_t`.

        Args:
            x_t: (batch, channels, height, width) in the [-1, 1] space.
            label: (batch,) real numbers in [0, 999], the time 999 t of the continuous VP-SDE.
            classes: (batch,), for a network that is told the class of each image; None for any class.
        """
        ratio, inverse_signal = self._noise_to_signal(label, x_t)
        noisy = x_t * inverse_signal - self.mean  # x_0 - mean + ratio * epsilon
        total = (ratio.square() + self.std.square()).sqrt()
        inner = self._layers(noisy / total, ratio.flatten(), classes).to(x_t.dtype)
        return (ratio * noisy / total - self.std * inner.view_as(x_t)) / total

    def _layers(self, pixels: Tensor, ratio: Tensor, classes: Tensor | None) -> Tensor:
        """The network itself, on numbers of size one.

        Args:
            pixels: (batch, channels, height, width).
            ratio: sigma / sqrt(alpha_bar), (batch,).
            classes: see `forward`.

        Returns:
            As many numbers as `pixels` has.
        """
        raise NotImplementedError

    def _waves(self, ratio: Tensor) -> Tensor:
        """Fourier features (batch, time_width / 2) of the noise level."""
        angles = ratio.clamp(min=1e-4).log().unsqueeze(1) * self.frequencies / 4
        return torch.cat((angles.sin(), angles.cos()), 1)

    def _noise_to_signal(self, label: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """sigma / sqrt(alpha_bar) and 1 / sqrt(alpha_bar), each (batch, 1, 1, 1)."""
        schedule, t = VPSchedule(), label.to(x_t.dtype).view(-1, 1, 1, 1) / 999
        inverse_signal = schedule.alpha_bar(t).rsqrt()
        return schedule.sigma(t) * inverse_signal, inverse_signal
