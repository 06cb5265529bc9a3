"""The loop that every recipe shares: AdamW, one-cycle learning rate, exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.training.progress import Progress, silent

Network = TypeVar("Network", bound=nn.Module)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index batches (size,) of 0..count-1: every epoch a fresh permutation, its ragged end dropped."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def fit(
    network: Network,
    loss: Callable[[Network], Tensor],
    *,
    steps: int,
    learning_rate: float,
    what: str,
    average: float = 0.999,
    progress: Progress = silent,
) -> Network:
    """Minimise a loss; returns the averaged copy of the network, in eval mode and without gradients.

    Args:
        network: what is trained.
        loss: network -> scalar; draws its own batch.
        steps: of the optimiser.
        learning_rate: highest one, of one cycle.
        what: is trained, for `progress` and messages.
        average: decay of the weights' moving average, 0 for none.
        progress: see `Progress`.

    Raises:
        ValueError: the loss is no longer finite.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    averaged = deepcopy(network)
    for step in range(1, steps + 1):
        value = loss(network.train())
        if not torch.isfinite(value):
            raise ValueError(
                f"Expected a finite loss, got {value.item()} at step {step} of {what}; lower learning_rate."
            )
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(averaged, network, min(average, step / (step + 10)))
        progress(what, step, steps, value.item())
    return averaged.eval().requires_grad_(False)


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the network's, by 1 - decay; buffers (running means) are copied."""
    for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for kept, current in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
