"""Score networks: predict the noise of the VP-SDE (Song et al., ICLR 2021, Eqs. 7 and 11; Ho et al., 2020, Eq. 14)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.training.augment import jitter
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent
from defenses.diffusion.schedule import VPSchedule, to_image_space, to_model_space

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t, label) -> noise, on the CPU


def diffuse(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t of images x (batch, channels, height, width) in the [-1, 1] space, each at a time of its own, t (batch,)."""
    t = t.view(-1, 1, 1, 1)
    schedule = VPSchedule()
    return schedule.alpha_bar(t).sqrt() * x + schedule.sigma(t) * noise


def fit_score(
    network: Network,
    images: Tensor,
    *,
    steps: int,
    seed: int,
    what: str,
    batch_size: int = 256,
    t_focus: float = 0.4,
    learning_rate: float = 1e-3,
    labels: Tensor | None = None,
    progress: Progress = silent,
) -> Network:
    """Train a network to predict the noise, by its mean squared error; returns the averaged network, see `fit`.

    Args:
        network: (x_t, label) -> noise; with `labels`, (x_t, label, classes) -> noise.
        images: (N, channels, height, width) in [0, 1], half of them jittered before use (docs/assets.md compares).
        steps: of the optimiser.
        seed: of every random draw.
        what: is trained, for `progress` and messages.
        batch_size: images a step, at most N.
        t_focus: 9 of 10 times are uniform on (0, t_focus], where purification works, the rest on (0, 1].
        learning_rate: highest one.
        labels: (N,); where given, one image in ten is shown without its class (see `ScoreMLP`).
        progress: see `Progress`.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(images), min(batch_size, len(images)), generator)
    any_class = 0 if labels is None else int(labels.max()) + 1

    def loss(net: nn.Module) -> Tensor:
        rows = next(stream)
        x = to_model_space(jitter(images[rows], generator, share=0.5))
        t = _times(len(x), t_focus, generator)
        noise = torch.randn(x.shape, generator=generator)
        classes = () if labels is None else (_mostly(labels[rows], any_class, generator),)
        return (net(diffuse(x, t, noise), 999 * t, *classes) - noise).square().mean()

    return fit(network, loss, steps=steps, learning_rate=learning_rate, what=what, progress=progress)


def _times(count: int, t_focus: float, generator: torch.Generator) -> Tensor:
    u, chosen = torch.rand(2, count, generator=generator)
    return (1 - u) * torch.where(chosen < 0.9, t_focus, 1.0)


def _mostly(labels: Tensor, any_class: int, generator: torch.Generator) -> Tensor:
    """The labels, one in ten replaced by `any_class`."""
    return torch.where(torch.rand(len(labels), generator=generator) < 0.1, any_class, labels)


@torch.no_grad()
def losses_by_time(network: Predict, images: Tensor, times: tuple[float, ...], seed: int = 0) -> dict[str, float]:
    """Mean squared error of the predicted noise at each time; predicting zero gets 1.

    Args:
        network: (x_t, label) -> noise, on the CPU.
        images: (n, channels, height, width) in [0, 1].
        times: diffusion times in (0, 1].
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    x, errors = to_model_space(images), {}
    for time in times:
        t, noise = torch.full((len(x),), time), torch.randn(x.shape, generator=generator)
        parts = zip(diffuse(x, t, noise).split(125), (999 * t).split(125), strict=True)
        found = torch.cat([network(x_t, label) for x_t, label in parts])
        errors[f"{time:g}"] = (found - noise).square().mean().item()
    return errors


@torch.no_grad()
def purify(network: Predict, images: Tensor, *, t: float, steps: int, seed: int = 0) -> Tensor:
    """DiffPure (Nie et al., ICML 2022, Eqs. 4-6) with Euler-Maruyama, to check a fresh network.

    Args:
        network: (x_t, label) -> noise, on the CPU.
        images: (n, channels, height, width) in [0, 1].
        t: diffusion time in (0, 1].
        steps: reverse steps.
        seed: of the noise.
    """
    schedule, generator = VPSchedule(), torch.Generator().manual_seed(seed)
    x = schedule.diffuse(to_model_space(images), t, torch.randn(images.shape, generator=generator))
    h = t / steps
    for k in range(steps):
        now = t - k * h
        score = -network(x, torch.full((len(x),), 999 * now)) / schedule.sigma(now)
        beta = schedule.beta(now)
        x = x + h * beta * (x / 2 + score) + (h * beta) ** 0.5 * torch.randn(x.shape, generator=generator)
    return to_image_space(x).clamp(0, 1)
