"""Averaged weights (EMA, SWA) in checkpoints, wherever they are: the live weights beside them are another network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WORDS = {"ema", "swa", "shadow", "averaged", "average", "averages", "polyak", "modelema", "emamodel", "netema"}
OTHERS = {"optimizer", "optim", "optimizers", "scheduler", "collected", "backup", "online", "raw", "live"}
"""Words in a key that say that its value is no average, whatever it is in: torch_ema keeps the live weights there."""
DEPTH = 5


def is_average(key: Any) -> bool:
    """Whether a key says that its value is averaged: model_ema, ema_0.9999, modelEMA, swa_state_dict, shadow."""
    return isinstance(key, str) and not _words(key).isdisjoint(WORDS) and _words(key).isdisjoint(OTHERS)


def _words(key: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)}


def is_weight(value: Any) -> bool:
    """Whether a value is a tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def is_state(value: Any) -> bool:
    """Whether a value is a state dict: names, most of them of tensors, one at least of more than a number."""
    if not isinstance(value, Mapping) or not value:
        return False
    weights = [entry for entry in value.values() if is_weight(entry)]
    return len(weights) * 2 > len(value) and all(isinstance(k, str) for k in value) and any(w.ndim for w in weights)


def averages(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Every set of averaged weights in a checkpoint.

    Returns:
        Where it is, e.g. "ema/module" -> a state dict, or a list of tensors without names.
    """
    found: dict[str, Any] = {}
    _search(checkpoint, (), False, found)
    return found


def _search(value: Any, path: tuple[str, ...], inside: bool, found: dict[str, Any]) -> None:
    """Note the sets of weights below `value`; `inside` says whether a key on the way was an average's."""
    if inside and (is_state(value) or _is_list(value)):
        found["/".join(path)] = value
    elif isinstance(value, (Mapping, list)) and len(path) < DEPTH and not is_state(value):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value[:DEPTH]):
            if not inside or _words(str(key)).isdisjoint(OTHERS):
                _search(entry, (*path, str(key)), inside or is_average(key), found)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_weight, value))


def without_averages(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without the entries that an average's key names."""
    return {key: value for key, value in checkpoint.items() if not is_average(key)}


def split_average(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One state dict that holds the live and the averaged weights side by side (`model.`, `model_ema.`): the latter.

    Lightning's modules and wrappers such as ema_pytorch's write such ones. LitEma, of the latent diffusion code, writes
    the averages without dots; they get the names of the live weights. A state without averages is returned whole, less
    the counter `n_averaged` of torch.optim.swa_utils, whose weights are the averages.

    Raises:
        ValueError: there are several averages, or names without dots that are not those of the live weights.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        parts = name.split(".")
        place = next((n for n, part in enumerate(parts[:-1]) if is_average(part)), None)
        if place is not None:
            groups.setdefault(".".join(parts[: place + 1]), {})[".".join(parts[place + 1 :])] = value
    groups = {prefix: group for prefix, group in groups.items() if any(value.ndim for value in group.values())}
    if len(groups) > 1:
        raise ValueError(
            f"Expected one set of averaged weights, found those below {', '.join(groups)}. Which is meant? Save that "
            "one alone, without the prefix."
        )
    if not groups:
        return {name: value for name, value in state.items() if name != "n_averaged"}
    ((prefix, group),) = groups.items()
    return group if any("." in name for name in group) else _with_dots(prefix, group, state)


def _with_dots(prefix: str, group: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    live = [name.partition(".")[2] for name in state if not name.startswith(f"{prefix}.")]
    names = {name.replace(".", ""): name for name in live if name}
    weights = {name: value for name, value in group.items() if name not in ("decay", "num_updates")}
    lost = [name for name in weights if name not in names]
    if lost:
        raise ValueError(
            f"Expected the averaged weights below {prefix} to have the names of the weights beside them, found "
            f"{lost[0]}. Save them as a state dict of the network's own."
        )
    return {names[name]: value for name, value in weights.items()}
