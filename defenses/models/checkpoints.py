"""What checkpoint files wrap around their weights, taken off: containers, prefixes, averaged weights without names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from defenses.models.weights import load_checkpoint, strip_prefix

if TYPE_CHECKING:
    from torch import Tensor, nn

    from defenses.models.sources import Source

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")


def bare_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a checkpoint: its averaged weights where it has them, else what lies under a usual name."""
    if "ema" in checkpoint and "shadow_params" in checkpoint["ema"]:
        return ema_state(checkpoint)
    for name in CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            return dict(checkpoint[name])
    return dict(checkpoint)


def ema_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """score_sde's averaged weights: a list without names, in the order of the trained weights beside it.

    The buffer `sigmas` is no parameter and has no average.

    Args:
        checkpoint: with `model`, the trained weights by name, and `ema`, whose `shadow_params` are their averages.

    Raises:
        ValueError: their number or their shapes do not agree.
    """
    raw = {name: value for name, value in strip_prefix(checkpoint["model"]).items() if name != "sigmas"}
    averaged = checkpoint["ema"]["shadow_params"]
    if len(averaged) != len(raw):
        raise ValueError(
            f"Expected {len(raw)} averaged weights, one for each of the model's, found {len(averaged)}. "
            "The file is not a checkpoint of score_sde, or its parameters are in another order: fetch it again."
        )
    for name, mean in zip(raw, averaged, strict=True):
        if mean.shape != raw[name].shape:
            raise ValueError(
                f"Expected an averaged weight of shape {tuple(raw[name].shape)} for {name}, found {tuple(mean.shape)}. "
                "The averages are in another order than the weights: this is not a checkpoint of score_sde."
            )
    return dict(zip(raw, averaged, strict=True))


def load_into(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """`network` with the weights of a state dict, every entry of which is consumed.

    Args:
        network: is filled in place.
        state: its names may all carry one prefix ("module.", "model.", ...).

    Raises:
        ValueError: naming what is missing and what is left over.
    """
    wanted = network.state_dict()
    prefix = _prefix(state, next(iter(wanted)))
    found = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        network.load_state_dict(found, strict=True)
    except RuntimeError as error:
        raise ValueError(f"The state dict does not fit the network: {error}") from error
    return network


def _prefix(state: Mapping[str, Tensor], name: str) -> str:
    """What stands before `name` in the state, the shortest if there are several; nothing where `name` is absent."""
    ends = (key.removesuffix(name) for key in state if key == name or key.endswith("." + name))
    return min(ends, key=len, default="")


def read(source: Source) -> dict[str, Tensor]:
    """The bare state dict of a public file on this machine. Raises MissingWeights, or ValueError for an altered one."""
    path = source.find()
    checkpoint = load_checkpoint(path, source.known_sha256())
    source.check(path)
    return bare_state(checkpoint)
