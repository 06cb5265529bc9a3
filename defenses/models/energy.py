"""Energy models as scores of the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import to_model_space


class EnergyScore(nn.Module):
    """A `DataScore` around an energy: score(x) = -temperature * d/dx energy(2 x - 1), x in [0, 1].

    Attributes:
        energy: (batch, channels, height, width) in the [-1, 1] space -> (batch,), a negative log density.
        image_shape: (channels, height, width) of its images.
        temperature: of what `Langevin` is given; 5e-5 is what its default expects, which then samples exp(-energy)
            whatever its noise_scale is. With 1 the score is the gradient of the log density itself.
    """

    def __init__(
        self, energy: Callable[[Tensor], Tensor], image_shape: tuple[int, int, int], *, temperature: float = 5e-5
    ) -> None:
        super().__init__()
        self.energy, self.image_shape, self.temperature = energy, image_shape, temperature

    def score(self, x: Tensor) -> Tensor:
        """See `DataScore.score`; differentiable where `x` records gradients."""
        recorded = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            x = x if recorded else x.detach().requires_grad_()
            total = self.energy(to_model_space(x)).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=recorded)
        return -self.temperature * gradient
