"""Floating-point operations of a network for one row, counted by torch on tensors that hold no numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.cell import Cell
from bench.datasets import dataset_info
from defenses.models.untrained import knows_classifier, knows_score, untrained_classifier, untrained_score
from defenses.models.weights import cache_folder

FILE = "flops.json"


@dataclass(frozen=True)
class Flops:
    """Operations of a network for one row; a multiplication and its addition are two.

    Attributes:
        forward: of a call.
        backward: of the gradient of its input, the call not included.
    """

    forward: float
    backward: float


def flops_of_classifier(name: str, cell: Cell) -> Flops:
    """Operations of a classifier for a picture of the cell's data set.

    Raises:
        LookupError: neither its architecture is known nor its file here.
    """
    shape = dataset_info(cell.dataset).image_shape
    if not knows_classifier(name):
        return _count(untrained_classifier(name), shape)
    return _remembered(f"classifier {name} {shape}", lambda: _count_unmade(lambda: untrained_classifier(name), shape))


def flops_of_score(name: str, cell: Cell) -> Flops:
    """Operations of a score network for one row at its own size.

    Raises:
        LookupError: neither its architecture is known nor its file here.
    """
    shape = dataset_info(cell.dataset).image_shape
    if not knows_score(name):
        return _count(untrained_score(name), shape)
    return _remembered(f"score {name}", lambda: _count_unmade(lambda: untrained_score(name), shape))


_CALLS: dict[str, float | None] = {}


def operations_of_call(name: str, network: Any, images: Tensor) -> float | None:
    """Operations of one call of a network that is at hand, for one row; counted once a process.

    Args:
        name: of the network, with what it is.
        network: a classifier or a score network.
        images: (1, channels, height, width) in [0, 1], on its device.

    Returns:
        The operations; None where the network does something that cannot be counted.
    """
    if name not in _CALLS:
        shape = getattr(network, "image_shape", None)
        x = images if shape is None else images.new_zeros((1, *shape))
        try:
            drawn = torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])
            with drawn, FlopCounterMode(display=False) as counter, torch.no_grad():
                _asker(network)(x)
            _CALLS[name] = float(counter.get_total_flops())
        except Exception:  # a count is not worth a cell
            _CALLS[name] = None
    return _CALLS[name]


def _count_unmade(make: Callable[[], Any], shape: tuple[int, ...]) -> Flops:
    """Count without filling a weight; where a constructor needs numbers, with random ones."""
    try:
        with torch.device("meta"):
            return _count_on(make(), shape)
    except (RuntimeError, NotImplementedError, TypeError):
        return _count(make(), shape)


def _count(network: Any, shape: tuple[int, ...]) -> Flops:
    """Count on the meta device, which computes nothing; on the CPU where the network needs numbers."""
    try:
        with torch.device("meta"):
            return _count_on(copy.deepcopy(network).to("meta"), shape)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return _count_on(network, shape)


def _count_on(network: Any, shape: tuple[int, ...]) -> Flops:
    if isinstance(network, nn.Module):
        network.eval().requires_grad_(False)
    ask = _asker(network)
    x = torch.zeros(1, *getattr(network, "image_shape", shape))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ask(x)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        out = ask(x.requires_grad_())
        if out.requires_grad:
            out.sum().backward()
    return Flops(float(forward), float(max(0, counter.get_total_flops() - forward)))


def _asker(network: Any) -> Callable[[Tensor], Tensor]:
    """One call of a network, whatever its kind."""
    if hasattr(network, "epsilon"):
        return partial(_ask_noise, network)
    ask: Callable[[Tensor], Tensor] = network.score if hasattr(network, "score") else network
    return ask


def _ask_noise(score: Any, x: Tensor) -> Tensor:
    found: Tensor = score.epsilon(x, x.new_full((1,), 0.5))
    return found


def _remembered(key: str, count: Callable[[], Flops]) -> Flops:
    """What the cache folder knows of a public architecture, else a new count, which is written there."""
    path = cache_folder() / FILE
    known = _read(path)
    with suppress(KeyError, TypeError, ValueError):
        forward, backward = known[key]
        return Flops(float(forward), float(backward))
    found = count()
    with suppress(OSError):  # a folder that cannot be written counts again
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({**_read(path), key: [found.forward, found.backward]}, indent=1), encoding="utf-8")
        new.replace(path)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
