"""The reference networks' fixtures: key listings, goldens, and weights made by their recipe instead of stored."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def listing(shared: Path, name: str) -> dict[str, list[int]]:
    """Name -> shape of every entry of a real state dict, in its order."""
    return json.loads((folder(shared) / f"{name}_keys.json").read_text())["state_dict"]


def empty_state(shared: Path, name: str) -> dict[str, Tensor]:
    """A state dict with the real names and shapes, and no memory behind it."""
    return {key: torch.empty(shape, device="meta") for key, shape in listing(shared, name).items()}


def made_state(shared: Path, name: str, seed: int) -> dict[str, Tensor]:
    """A real state dict's names and shapes, with the weights of the recipe."""
    names = {key: shape for key, shape in listing(shared, name).items() if key != "sigmas"}
    return {key: recipe(seed, key, shape) for key, shape in names.items()}


def recipe(seed: int, name: str, shape: list[int]) -> Tensor:
    """The weights that the goldens were made with: raw PCG64 bits, keyed by the entry's name (the fixtures' README)."""
    leaf, total = name.rsplit(".", 1)[-1], math.prod(shape)
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])).random_raw(total)
    u = ((bits >> np.uint64(40)).astype(np.float64) * 2.0**-24 - 0.5).reshape(shape)
    if leaf == "running_var":
        value = 1 + u
    elif leaf in ("bias", "b", "running_mean"):
        value = 0.4 * u
    elif leaf == "W":
        value = u * math.sqrt(12 / shape[0])
    else:
        value = 1 + 0.6 * u if len(shape) == 1 else u * math.sqrt(12 / math.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float16).astype(np.float32))


def tensors(shared: Path, name: str) -> dict[str, Tensor]:
    """A safetensors fixture."""
    from safetensors.torch import load_file

    return load_file(folder(shared) / f"{name}.safetensors")


def record(shared: Path, name: str) -> dict[str, Any]:
    """A JSON fixture."""
    return json.loads((folder(shared) / f"{name}.json").read_text())


def folder(shared: Path) -> Path:
    return shared / "reference" / "networks"


def relative(actual: Tensor, golden: Tensor) -> float:
    """Largest error, over the largest value of the golden."""
    return float((actual - golden).abs().max() / golden.abs().max())
