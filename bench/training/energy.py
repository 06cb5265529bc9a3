"""Energies by denoising score matching (Vincent, Neural Computation 2011, Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.training.augment import jitter
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent
from defenses.diffusion.schedule import to_model_space


def matching_loss(energy: nn.Module, x: Tensor, noise: Tensor, sigma: float, *, create_graph: bool = True) -> Tensor:
    """Mean squared error of sigma grad E(x + sigma noise) against the noise; a zero gradient gets 1.

    Args:
        energy: (batch, ...) in the [-1, 1] space -> (batch,).
        x: images in the [-1, 1] space.
        noise: standard normal, shape of `x`.
        sigma: standard deviation of the noise that is added, > 0.
        create_graph: whether the loss is differentiated afterwards.
    """
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
    """Train the energy of data plus noise; returns the averaged network, see `fit`.

    Args:
        network: (batch, ...) in the [-1, 1] space -> energies (batch,).
        images: (N, channels, height, width) in [0, 1], half of them jittered before use.
        sigma: standard deviation of the noise, [-1, 1] units.
        steps: of the optimiser.
        seed: of every random draw.
        what: is trained, for `progress` and messages.
        batch_size: images a step, at most N.
        learning_rate: highest one.
        progress: see `Progress`.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(images), min(batch_size, len(images)), generator)

    def loss(net: nn.Module) -> Tensor:
        x = to_model_space(jitter(images[next(stream)], generator, share=0.5))
        return matching_loss(net, x, torch.randn(x.shape, generator=generator), sigma)

    return fit(network, loss, steps=steps, learning_rate=learning_rate, what=what, progress=progress)
