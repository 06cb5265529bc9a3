"""A linear classifier: its exact robust radius, alone and behind a Gaussian purifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.base import Defended, Gradient
from defenses.noise import Noise


class TwoClasses(nn.Module):
    """Logits (0, w.x + b, -30): a hyperplane between classes 0 and 1; the third exists for losses that need three."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = w, b

    def value(self, x: Tensor) -> Tensor:
        """w.x + b, (batch,)."""
        return (x.flatten(1) * self.w.flatten()).sum(1) + self.b

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        return torch.stack((torch.zeros_like(value), value, torch.full_like(value, -30.0)), 1)

    def radius(self, x: Tensor, norm: str) -> Tensor:
        """Distance to the hyperplane (batch,), away from the box's walls."""
        dual = self.w.abs().sum() if norm == "Linf" else self.w.norm()
        return self.value(x).abs() / dual


def problem(n: int = 200, seed: int = 0) -> tuple[TwoClasses, Tensor, Tensor, Tensor]:
    """Classifier, images (n, 1, 4, 4) in the middle of the box, their true labels, ids."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(1, 4, 4, generator=g)
    images = 0.5 + 0.08 * torch.randn(n, 1, 4, 4, generator=g).clamp(-2.5, 2.5)
    model = TwoClasses(w, -0.5 * float(w.sum()))
    return model, images, (model.value(images) > 0).long(), torch.arange(n)


def defended(classifier: nn.Module, sigma: float = 0.0, gradient: Gradient = "exact") -> Defended:
    """The classifier, behind a purifier that adds Gaussian noise of standard deviation sigma."""

    def purify(images: Tensor, noise: Noise) -> Tensor:
        return images + sigma * noise.normal(images, step=0) if sigma else images

    return Defended(purify, classifier, gradient=gradient)
