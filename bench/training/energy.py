"""Energies by denoising score matching (Vincent, Neural Computation 2011, Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.training.augment import jitter
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent
from defenses.diffusion.schedule import to_model_space


def matching_loss(energy: nn.Module, x: Tensor, noise: Tensor, sigma: float, *, create_graph: bool = True) -> Tensor:
    """Mean squared error of sigma grad E(x + sigma noise) against the noise; x in [-1, 1]. Zero gradient gets 1."""
    noisy = (x + sigma * noise).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(noisy).sum(), noisy, create_graph=create_graph)
    return (sigma * gradient - noise).square().mean()


def fit_energy(
    network: Network,
    images: Tensor,
    *,
    sigma: float,
    steps: int,
    seed: int,
    what: str,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    progress: Progress = silent,
) -> Network:
    """Train `network` on images (N, ...) in [0, 1], half of them jittered, to be the energy of data plus noise of
    standard deviation sigma, [-1, 1] units."""
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(images), min(batch_size, len(images)), generator)

    def loss(net: nn.Module) -> Tensor:
        x = to_model_space(jitter(images[next(stream)], generator, share=0.5))
        return matching_loss(net, x, torch.randn(x.shape, generator=generator), sigma)

    return fit(network, loss, steps=steps, learning_rate=learning_rate, what=what, progress=progress)
