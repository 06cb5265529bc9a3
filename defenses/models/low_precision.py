"""A score network in bfloat16 for the passes of an attack: the same object, with copies of its layers' weights.

The cast lies inside the network's own call, not around the attack: a backward pass recomputes steps in a thread of its
own, where an autocast of the caller is off. Matrix products and convolutions are in bfloat16; what autocast leaves in
float32 (norms, softmax), time labels, tables and the sampler stay so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from defenses.models.around import Around, copy_score, put

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)  # whose weights autocast would cast anew at every call
NETWORKS = ("network", "energy")  # where the score classes of `defenses.models` keep it
ANSWERS = ("epsilon", "epsilon_at", "epsilon_and_log_variance", "score")  # of a class that keeps it elsewhere


def in_bfloat16(score: Any) -> Any:
    """A `ScoreModel` or `DataScore` whose network computes in bfloat16 and answers in the dtype that it is asked in.

    Args:
        score: left as it is; its other attributes are shared.

    Raises:
        ValueError: it is of a class whose answers cannot be wrapped.
    """
    try:
        other = copy_score(score)
        if hasattr(getattr(score, "network", None), "epsilon"):  # a score around another one, as `FixedTimeScore`
            put(other, "network", in_bfloat16(score.network))
            return other
        held = [name for name in NETWORKS if callable(getattr(score, name, None))]
        if held:
            for name in held:
                put(other, name, Bfloat16Network(getattr(score, name)))
            return other
        answers = [name for name in ANSWERS if callable(getattr(score, name, None))]
        for name in answers:
            put(other, name, _autocast(getattr(type(score), name).__get__(other)))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected a score network that can be copied for attack_precision='bfloat16', found a "
            f"{type(score).__name__} ({error}). Use NetworkScore around the network, or attack in float32."
        ) from error
    return other


class Bfloat16Network(Around):
    """A network in bfloat16: what autocast computes, with the layers' weights cast once.

    Attributes:
        network: the copy; a function that is no module is called as it is.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = _cast_copy(network) if isinstance(network, nn.Module) else network
        self.train(getattr(network, "training", False))  # as the original: a later eval() would be a change

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        """The network's answer in the dtype of x."""
        return _autocast(self.network)(x, *more, **named)


def _cast_copy(network: nn.Module) -> nn.Module:
    """The network with bfloat16 weights in its layers; every other tensor is shared."""
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    other = copy.deepcopy(network, known)
    for layer in other.modules():
        if isinstance(layer, LAYERS):
            for name, parameter in layer._parameters.items():
                if parameter is not None and parameter.dtype == torch.float32:
                    layer._parameters[name] = nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False)
    return other


def _autocast(ask: Callable[..., Any]) -> Callable[..., Any]:
    def cast(x: Tensor, *more: Any, **named: Any) -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            return _as(ask(x, *more, **named), x.dtype)

    return cast


def _as(answer: Any, dtype: torch.dtype) -> Any:
    if isinstance(answer, tuple):
        return tuple(_as(part, dtype) for part in answer)
    return answer.to(dtype) if isinstance(answer, Tensor) and answer.is_floating_point() else answer
