"""The loop for trainings that take hours: bf16, Muon, a moving average, and a checkpoint to continue from.

Every random draw depends on the seed and the step alone, so a run that was broken off and continued is the same run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.training.loop import Network, follow
from bench.training.progress import Progress, silent
from defenses.models.weights import load_checkpoint


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast. Both rates rise over the warm-up and fall to zero in a straight line.

    Attributes:
        steps: of the optimiser.
        batch_size: images a step.
        learning_rate: of Muon, which moves the matrices and convolutions; None for no Muon.
        other_rate: of AdamW, which moves the rest.
        weight_decay: of both.
        average: decay of the weights' moving average, in [0, 1).
        warm_up: steps of the rise.
    """

    steps: int
    batch_size: int
    learning_rate: float | None = 2e-3
    other_rate: float = 2e-3
    weight_decay: float = 1e-4
    average: float = 0.995
    warm_up: int = 50

    def rate(self, step: int) -> float:
        """Share of the learning rate at `step` of 0..steps-1."""
        return min(1.0, (step + 1) / self.warm_up) * (1 - step / self.steps)

    def slowed(self, share: float) -> Plan:
        """The plan at `share` of its learning rates."""
        muon = None if self.learning_rate is None else share * self.learning_rate
        return replace(self, learning_rate=muon, other_rate=share * self.other_rate)

    def scaled(self, effort: float) -> Plan:
        """The plan with `effort` times the steps, of which the warm-up takes a tenth at most."""
        steps = max(1, round(self.steps * effort))
        return replace(self, steps=steps, warm_up=min(self.warm_up, max(1, steps // 10)))


class Optimizer:
    """Muon for the weights of two and more dimensions, AdamW for the rest and for the layers named in `plain`.

    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; torch's takes matrices alone, so
    convolutions are shown to it as (outputs, inputs x rows x columns).

    Attributes:
        plan: the rates and their course.
        hidden: the parameters that Muon moves.
        matrices: the same memory, as matrices.
        parts: (highest rate, optimiser) of each.
    """

    def __init__(self, network: nn.Module, plan: Plan, plain: tuple[str, ...]) -> None:
        """`plain`: prefixes of the parameters that AdamW moves although they are matrices."""
        rate, named = plan.learning_rate, dict(network.named_parameters())
        hidden = {
            name: p for name, p in named.items() if rate is not None and p.ndim > 1 and not name.startswith(plain)
        }
        rest = [p for name, p in named.items() if name not in hidden]
        self.plan, self.hidden = plan, list(hidden.values())
        for p in self.hidden:
            p.data = p.data.contiguous()
        self.matrices = [nn.Parameter(p.data.flatten(1)) for p in self.hidden]  # the same memory
        adamw = torch.optim.AdamW(rest, lr=plan.other_rate, weight_decay=plan.weight_decay)
        self.parts: list[tuple[float, torch.optim.Optimizer]] = [(plan.other_rate, adamw)]
        if rate is not None:
            decay, adjust = plan.weight_decay, "match_rms_adamw"
            muon = torch.optim.Muon(self.matrices, lr=rate, weight_decay=decay, adjust_lr_fn=adjust)
            self.parts.insert(0, (rate, muon))

    def step(self, step: int) -> None:
        """Move the weights along their gradients, at the rates of `step`."""
        share = self.plan.rate(step)
        for rate, part in self.parts:
            part.param_groups[0]["lr"] = rate * share
        for matrix, p in zip(self.matrices, self.hidden, strict=True):
            matrix.grad = p.grad.flatten(1) if p.grad is not None else None
        for _, part in self.parts:
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """The state dicts of the parts, for a checkpoint."""
        return [part.state_dict() for _, part in self.parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Take what `state` gave."""
        for (_, part), saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)


def rows_of(step: int, size: int, count: int, seed: int) -> Tensor:
    """Which images a step sees: every epoch a fresh permutation, its ragged end dropped.

    Args:
        step: 0, 1, ...
        size: images a step.
        count: images in all.
        seed: of the permutations.

    Returns:
        Indices (size,).

    Raises:
        ValueError: there is no whole batch.
    """
    if count < size:
        raise ValueError(f"Expected at least {size} pictures to train on, a batch, got {count}.")
    epoch, place = divmod(step, count // size)
    return _order(count, seed * 100_003 + epoch)[place * size : (place + 1) * size]


@lru_cache(maxsize=1)
def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def claim(output: Path, file: str) -> Path:
    """Where the checkpoint of a training goes.

    Args:
        output: the folder of the training.
        file: the name of what it will write there.

    Raises:
        ValueError: the record there is that of another network, which would lose it.
    """
    record = output / "record.json"
    held = json.loads(record.read_text(encoding="utf-8")).get("files", {}) if record.is_file() else {file: {}}
    if file not in held:
        raise ValueError(
            f"Expected a folder for {file} alone, found {', '.join(held) or 'a record of something else'} in {output}. "
            "Choose another output folder."
        )
    return output / "checkpoint.pt"


def digest(*tensors: Tensor) -> str:
    """Hex sha256 of what is trained on."""
    found = sha256()
    for tensor in tensors:
        found.update(tensor.cpu().contiguous().numpy())  # type: ignore[arg-type]
    return found.hexdigest()


def fit_long(
    network: Network,
    loss: Callable[[nn.Module, int, torch.Generator], Tensor],
    *,
    plan: Plan,
    seed: int,
    what: str,
    pictures: str,
    plain: tuple[str, ...] = (),
    checkpoint: Path | None = None,
    every: float = 300.0,
    compiled: bool = False,
    progress: Progress = silent,
) -> tuple[Network, float]:
    """Minimise a loss; forward and backward run under bf16 autocast, the weights stay float32.

    Args:
        network: what is trained, on its device.
        loss: (network, step, generator) -> scalar; draws its own batch.
        plan: steps, batch size, rates.
        seed: of every random draw.
        what: is trained, for `progress` and the checkpoint.
        pictures: `digest` of what is trained on.
        plain: prefixes of the parameters that AdamW moves although they are matrices.
        checkpoint: file that is written now and then, and continued from where it is there; None for none.
        every: seconds between two writings.
        compiled: whether to torch.compile the network.
        progress: see `Progress`.

    Returns:
        The averaged network, in eval mode and frozen, and the seconds spent.

    Raises:
        ValueError: the loss is no longer finite, or the checkpoint is of another plan, seed or pictures.
    """
    device = next(network.parameters()).device
    optimizer, averaged = Optimizer(network, plan, plain), deepcopy(network)
    start, spent = 0, 0.0
    settings = {"plan": asdict(plan), "seed": seed, "what": what, "pictures": pictures}
    if checkpoint is not None and checkpoint.is_file():
        start, spent = _load(checkpoint, settings, network, averaged, optimizer)
    called: Any = torch.compile(network) if compiled else network
    begun = saved = time.perf_counter()
    for step in range(start, plan.steps):
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)  # of dropout, which takes no generator
        network.train()
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(called, step, generator)
        if not torch.isfinite(value):
            raise ValueError(f"Expected a finite loss, got {value.item()} at step {step} of {what}; lower the rates.")
        network.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step(step)
        follow(averaged, network, min(plan.average, (step + 1) / (step + 11)))
        progress(what, step + 1, plan.steps, value.item())
        now = time.perf_counter()
        if checkpoint is not None and now - saved > every:
            _save(checkpoint, settings, step + 1, spent + now - begun, network, averaged, optimizer)
            saved = now
    return averaged.eval().requires_grad_(False), spent + time.perf_counter() - begun


def _save(
    path: Path, settings: dict[str, Any], step: int, seconds: float, network: nn.Module, averaged: nn.Module,
    optimizer: Optimizer,
) -> None:  # fmt: skip
    written = path.with_suffix(".part")
    torch.save(
        {
            "settings": settings, "step": step, "seconds": seconds, "network": network.state_dict(),
            "averaged": averaged.state_dict(), "optimizer": optimizer.state(),
        },
        written,
    )  # fmt: skip
    written.replace(path)


def _load(
    path: Path, settings: dict[str, Any], network: nn.Module, averaged: nn.Module, optimizer: Optimizer
) -> tuple[int, float]:
    remedy = "Delete it, or choose another output folder."
    try:
        held = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"Expected {path} to be a checkpoint of {settings}, could not read it. {remedy}") from error
    if held.get("settings") != settings:
        raise ValueError(
            f"Expected {path} to be a checkpoint of {settings}, found one of {held.get('settings')}. {remedy}"
        )
    network.load_state_dict(held["network"])
    averaged.load_state_dict(held["averaged"])
    optimizer.load(held["optimizer"])
    return held["step"], held["seconds"]
