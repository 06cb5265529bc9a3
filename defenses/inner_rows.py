"""Rows inside a network where the batch outside stays whole: its calls are cut, its answers joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from defenses.again import again_in_backward


def find_networks(work: Callable[[], object]) -> list[nn.Module]:
    """The outermost modules that are called with a batch while something is done, but for wrappers around others.

    Args:
        work: a small pass.
    """
    found: dict[int, nn.Module] = {}
    inside: list[nn.Module] = []

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        wraps = hasattr(module, "rows_at_once")  # a defense: its networks lie inside
        if not inside and not wraps and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            found[id(module)] = module
        if not wraps:
            inside.append(module)

    def end(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inside and inside[-1] is module:
            inside.pop()

    hooks = [register_module_forward_pre_hook(begin), register_module_forward_hook(end)]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


@contextmanager
def in_chunks(networks: Sequence[nn.Module], rows: int) -> Iterator[None]:
    """While it lasts, each network gets at most so many rows at once.

    Args:
        networks: whose answer for a row depends on that row alone.
        rows: at least 1.
    """
    before = [(network, vars(network).get("forward")) for network in networks]
    for network in networks:
        object.__setattr__(network, "forward", _Chunked(network, rows))
    try:
        yield
    finally:
        for network, forward in before:
            if forward is None:
                vars(network).pop("forward", None)
            else:  # cut already, into larger parts
                object.__setattr__(network, "forward", forward)


class _Chunked:
    """A network's `forward` on a part of the rows at a time."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        self._network, self._whole, self._rows = network, network.forward, rows

    def __call__(self, x: Tensor, *more: Any, **named: Any) -> Any:
        """The answer for all rows; whole where somebody listens to the layers, which would hear the last part alone."""
        size = len(x)
        if size <= self._rows or named or self._is_heard():
            return self._whole(x, *more, **named)
        return _join([self._part(x, more, slice(i, min(i + self._rows, size))) for i in range(0, size, self._rows)])

    def _part(self, x: Tensor, more: tuple[Any, ...], rows: slice) -> Any:
        cut = [v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for v in more]
        if torch.is_grad_enabled() and x.requires_grad:
            return again_in_backward(self._whole, x[rows], *cut)
        return self._whole(x[rows], *cut)

    def _is_heard(self) -> bool:
        inner = (module for module in self._network.modules() if module is not self._network)
        return any(module._forward_hooks for module in inner)


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else tuple(map(torch.cat, zip(*parts, strict=True)))
