"""A network that stands in for another one, inside a score network or by itself."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


class Around(nn.Module):
    """A module around `network` that knows every other attribute of it: what a score asks of it beside calling it.

    Attributes:
        network: what is stood in for, or a copy of it.
    """

    network: Any

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":
                raise
            return getattr(self.network, name)


def copy_score(score: Any) -> Any:
    """A shallow copy of a `ScoreModel` or `DataScore`, to be changed by `put`; TypeError where it cannot be copied."""
    other = copy.copy(score)
    if isinstance(score, nn.Module):
        other._modules = dict(score._modules)
    return other


def put(score: Any, name: str, value: Any) -> None:
    """Set an attribute of a copied score, a frozen one too.

    Args:
        score: of `copy_score`.
        name: of the attribute, e.g. "network".
        value: a module or a function.

    Raises:
        AttributeError: the score cannot be changed.
    """
    if isinstance(score, nn.Module):
        score.__dict__.pop(name, None)  # a function that a module takes the place of
        setattr(score, name, value)
    else:
        object.__setattr__(score, name, value)
