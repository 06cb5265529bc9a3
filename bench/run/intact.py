"""Are the networks still what was loaded? A cell that changes them would spoil its own number and all that follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 1 << 22  # elements summed at once
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ChangedNetwork(RuntimeError):
    """A defense or an attack changed a network that other cells share."""

    remedy = "Work on a copy of the network (copy.deepcopy) in the defense or the attack."


def fingerprint(network: Any) -> dict[str, Any]:
    """What must not change while a cell runs.

    Args:
        network: a module; anything else has the empty fingerprint.

    Returns:
        For every parameter and buffer its shape and a checksum of its bits; for every module its class, its mode, its
        hooks, and whether its `forward` was replaced.
    """
    if not isinstance(network, nn.Module):
        return {}
    found: dict[str, Any] = {f"module {name}": _describe(module) for name, module in network.named_modules()}
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return found | {name: (tuple(tensor.shape), _checksum(tensor)) for name, tensor in tensors}


def check_intact(name: str, network: Any, before: dict[str, Any]) -> None:
    """Raise ChangedNetwork where a network differs from its fingerprint; the message names the first difference."""
    now = fingerprint(network)
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        raise ChangedNetwork(
            f"Expected the network {name} as it was loaded, found {len(different)} differences, the first in "
            f"{different[0]!r}. The defense or the attack changed it; nothing of this batch is stored."
        )


def _describe(module: nn.Module) -> tuple[Any, ...]:
    hooks = tuple(len(getattr(module, name, ())) for name in HOOKS)
    return (type(module).__qualname__, module.training, hooks, "forward" in vars(module))


def _checksum(tensor: Tensor) -> int:
    """Sum of the bytes, each weighted by its place, modulo 2^64: it sees a changed bit and an exchange of values."""
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    total = 0
    for start in range(0, data.numel(), CHUNK):
        part = data[start : start + CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(part), device=part.device, dtype=torch.int64) % 65_521 + 1
        total += int((part * places).sum())
    return total % 2**64
