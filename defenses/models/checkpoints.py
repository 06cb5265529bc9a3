"""What checkpoint files wrap around their weights, taken off: containers, prefixes, averaged weights without names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from defenses.models.averages import averages, is_state, is_weight, split_average, without_averages
from defenses.models.weights import load_checkpoint, strip_prefix

if TYPE_CHECKING:
    from torch import Tensor, nn

    from defenses.models.sources import Source

CONTAINERS = (
    "state_dict", "model_state_dict", "model", "net", "module", "network", "net_state_dict", "params", "weights",
)  # fmt: skip


def bare_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a checkpoint: its averaged weights where it has them, else what lies under a usual name.

    Raises:
        ValueError: it has no weights, or several sets of which none is the usual one; the message names them.
    """
    found = averages(checkpoint)
    sets = list(found.values())
    if len(found) > 1 and not all(isinstance(s, Mapping) and _is_equal(sets[0], s) for s in sets):
        raise ValueError(
            f"Expected one set of averaged weights, found {', '.join(found)}. Which is meant? Save that one alone: "
            f"torch.save(checkpoint{_path_code(next(iter(found)))}, ...)."
        )
    if sets:
        return split_average(sets[0]) if isinstance(sets[0], Mapping) else _named(checkpoint, sets[0])
    return split_average(_live(checkpoint))


def _live(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint without averages."""
    sets = {name: checkpoint[name] for name in checkpoint if is_state(checkpoint[name])}
    usual = [name for name in CONTAINERS if name in sets]
    chosen = usual[:1] if all(_is_equal(sets[usual[0]], sets[name]) for name in usual[1:]) else usual
    chosen = chosen or list(sets)
    if not chosen:
        inner = next((checkpoint[name] for name in CONTAINERS if isinstance(checkpoint.get(name), Mapping)), None)
        if inner is not None:
            return _live(inner)
        if bare := {name: value for name, value in checkpoint.items() if is_weight(value)}:
            return bare
    if len(chosen) != 1:
        names = ", ".join(map(str, chosen or list(checkpoint)[:8])) or "nothing"
        asked = f"several: {names}. Which is meant? Save that one alone" if chosen else f"none in: {names}. Save them"
        raise ValueError(f"Expected one state dict (name -> tensor) in the checkpoint, found {asked} with torch.save.")
    return {name: value for name, value in sets[chosen[0]].items() if is_weight(value)}


def _is_equal(a: Any, b: Any) -> bool:
    """Whether two state dicts are one and the same network's."""
    if a is b or a.keys() != b.keys():
        return a is b
    return all(a[n].equal(b[n]) if is_weight(a[n]) and is_weight(b[n]) else a[n] == b[n] for n in a)


def _path_code(path: str) -> str:
    return "".join(f"[{part!r}]" for part in path.split("/"))


def _named(checkpoint: Mapping[str, Any], average: Any) -> dict[str, Tensor]:
    """A list of averages without names, under those of the weights beside it."""
    return ema_state({"model": _live(without_averages(checkpoint)), "ema": {"shadow_params": average}})


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
