"""Classifiers: plain training, and training on adversarial images (Madry et al., ICLR 2018, Eq. 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.training.augment import jitter
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent on the cross-entropy from a random start.

    norm: "Linf" or "L2". epsilon: radius in image units. steps: iterations of size 2.5 epsilon / steps (Madry et al.).
    """

    norm: str
    epsilon: float
    steps: int

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial images (batch, ...) in [0, 1] within epsilon of `images`."""
        start = self._ball(torch.rand(images.shape, generator=generator) * 2 - 1, unit=self.norm == "L2")
        x = (images + self.epsilon * start).clamp(0, 1)
        for _ in range(self.steps):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(network(x), labels, reduction="sum"), x)
            step = self._direction(gradient) * (2.5 * self.epsilon / self.steps)
            x = (images + self.epsilon * self._ball((x.detach() + step - images) / self.epsilon)).clamp(0, 1)
        return x.detach()

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "Linf" else gradient / _norm(gradient).clamp(min=1e-12)

    def _ball(self, delta: Tensor, unit: bool = False) -> Tensor:
        """Project on the unit ball; `unit` puts every row on an L2 sphere of radius below 1 first."""
        if self.norm == "Linf":
            return delta.clamp(-1, 1)
        return delta / _norm(delta).clamp(min=1e-12 if unit else 1.0)


def _norm(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def fit_classifier(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    what: str,
    attack: PGD | None = None,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    progress: Progress = silent,
) -> Network:
    """Train `network` on images (N, channels, height, width) in [0, 1] and labels (N,), attacked by `attack` first."""
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(images), min(batch_size, len(images)), generator)

    def loss(net: nn.Module) -> Tensor:
        rows = next(stream)
        x = jitter(images[rows], generator)
        if attack is not None:
            x = attack(net, x, labels[rows], generator)
        return cross_entropy(net(x), labels[rows], label_smoothing=0.05)

    return fit(network, loss, steps=steps, learning_rate=learning_rate, average=0.995, what=what, progress=progress)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    return (network(images).argmax(1) == labels).double().mean().item()


def robust_accuracy(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD, seed: int = 0) -> float:
    """Accuracy on the images that `attack` makes for this very network."""
    return accuracy(network, attack(network, images, labels, torch.Generator().manual_seed(seed)), labels)
