"""What decides the answers of a network that is no file: a hash of its weights, structure and code."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, tuple, type(None))


def hash_network(network: Any) -> str:
    """sha256 of what decides a network's answers, as far as it can be seen: weights, structure, plain attributes and
    the source of its classes."""
    digest = hashlib.sha256()
    parts = list(network.modules()) if isinstance(network, nn.Module) else [network]
    for part in parts:
        digest.update(type(part).__qualname__.encode())
        plain = {k: v for k, v in vars(part).items() if isinstance(v, PLAIN) and k != "training"}
        digest.update(repr(sorted(plain.items())).encode())
        for value in vars(part).values():
            if dataclasses.is_dataclass(value):  # a noise schedule
                digest.update(repr(value).encode())
            elif isinstance(value, nn.Module):  # of a score network that is no module itself
                digest.update(hash_network(value).encode())
        if not type(part).__module__.startswith("torch."):
            with suppress(OSError, TypeError):
                digest.update(inspect.getsource(type(part)).encode())
    if isinstance(network, nn.Module):
        for name, value in network.state_dict().items():
            digest.update(name.encode() + _bytes(value))
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    if not isinstance(value, Tensor):
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{value.dtype} {tuple(value.shape)}".encode() + flat.numpy().tobytes()
