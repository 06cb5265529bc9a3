"""Classifiers: plain training, and training on adversarial images (Madry et al., ICLR 2018, Eq. 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.training.augment import jitter
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent

Norm = Literal["Linf", "L2"]


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent on the cross-entropy from a random start.

    Attributes:
        norm: "Linf" or "L2".
        epsilon: radius, image units, > 0.
        steps: iterations of size 2.5 epsilon / steps (Madry et al., ICLR 2018).
    """

    norm: Norm
    epsilon: float
    steps: int

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial images in [0, 1] within epsilon of the given ones.

        Args:
            network: images -> logits.
            images: (batch, channels, height, width) in [0, 1].
            labels: (batch,).
            generator: of the random start.
        """
        x = (images + self.epsilon * self._start(images, generator)).clamp(0, 1)
        for _ in range(self.steps):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(network(x), labels, reduction="sum"), x)
            step = self._direction(gradient) * (2.5 * self.epsilon / self.steps)
            x = (images + self.epsilon * self._project((x.detach() + step - images) / self.epsilon)).clamp(0, 1)
        return x.detach()

    def _start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the unit ball: uniform in the cube, or on the sphere."""
        cube = torch.rand(images.shape, generator=generator) * 2 - 1
        return cube if self.norm == "Linf" else cube / _norm(cube)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "Linf" else gradient / _norm(gradient).clamp(min=1e-12)

    def _project(self, delta: Tensor) -> Tensor:
        return delta.clamp(-1, 1) if self.norm == "Linf" else delta / _norm(delta).clamp(min=1)


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
    """Train a classifier; returns the averaged network, see `fit`.

    Args:
        network: images -> logits.
        images: (N, channels, height, width) in [0, 1], jittered before use.
        labels: (N,).
        steps: of the optimiser.
        seed: of batches, jitter and attack.
        what: is trained, for `progress` and messages.
        attack: each batch is attacked by it first; None for plain training.
        batch_size: images a step, at most N.
        learning_rate: highest one.
        progress: see `Progress`.
    """
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
    """Share of images (batch, channels, height, width) whose largest logit is the label's, in [0, 1]."""
    return (network(images).argmax(1) == labels).double().mean().item()


def robust_accuracy(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD, seed: int = 0) -> float:
    """Accuracy on the images that an attack makes for this very network, in [0, 1].

    Args:
        network: images -> logits.
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,).
        attack: sees the network's gradient.
        seed: of its random start.
    """
    return accuracy(network, attack(network, images, labels, torch.Generator().manual_seed(seed)), labels)
