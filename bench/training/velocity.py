"""The velocity of FlowPure (Collaert et al., 2025, arXiv:2505.13280): flow matching of corrupted and clean images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.training.score import Predict

SIGMA = 0.3  # of the Gaussian corruption, image units
LARGEST, STEP, STEPS = 0.05, 2 / 255, 10  # of the training attack, image units


def flow_state(clean: Tensor, corrupted: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What the network is shown, and what it should answer: (t clean + (1 - t) corrupted, clean - corrupted).

    Args:
        clean: (batch, channels, height, width) in [0, 1].
        corrupted: same shape.
        t: (batch,) flow times in [0, 1].
    """
    share = t.view(-1, 1, 1, 1)
    return share * clean + (1 - share) * corrupted, clean - corrupted


def velocity_loss(network: Predict, clean: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the velocity, over all values. The network's label is t itself; see `flow_state`."""
    state, target = flow_state(clean, corrupted, t)
    return (network(state, t).float() - target).square().mean()


def add_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (batch, channels, height, width) in [0, 1] plus Gaussian noise of `SIGMA`, not clipped."""
    return images + SIGMA * torch.randn(images.shape, device=images.device, generator=generator)


def attack_bare(classifier: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """PGD on the bare classifier, every image within a radius of its own, uniform up to `LARGEST`, as released.

    Args:
        classifier: images in [0, 1] -> logits.
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,).
        generator: of the radii and the starts.
    """
    radius = LARGEST * torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)
    start = 2 * torch.rand(images.shape, device=images.device, generator=generator) - 1
    x = (images + radius * start).clamp(0, 1)
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(classifier(x).float(), labels), x)
        x = (x.detach() + STEP * gradient.sign()).clamp(images - radius, images + radius).clamp(0, 1)
    return x.detach()
