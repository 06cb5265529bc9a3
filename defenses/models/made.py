"""Networks that a function of the user's makes, as records: their hash is of weights, structure and code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.own_code import hash_own_code

OWN = "the user's own"
_DIGESTS: dict[tuple[Any, ...], str] = {}


class _MadeClassifier(ClassifierInfo):
    def weights_sha256(self) -> str:
        """Of the code behind the network and of the network as it is made."""
        return _digest(self.name, self.load, self.find())


class _MadeScore(ScoreInfo):
    def weights_sha256(self) -> str:
        """Of the code behind the network and of the network as it is made."""
        return _digest(self.name, self.load, self.find())


def made_classifier(name: str, function: Callable[[], Any], **facts: Any) -> ClassifierInfo:
    """The record of a classifier that a function returns.

    Args:
        name: what a cell calls it.
        function: () -> the network; may be its class.
        facts: datasets, title, source, licence.
    """

    def load() -> Any:
        from torch import nn

        made = make(function, name)
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"Expected {name} to return a torch nn.Module from images in [0, 1] to logits, got {_words(made)}."
            )
        return made

    return _MadeClassifier(name=name, load=load, find=lambda: _file_of(function), **_facts(name, function, facts))


def made_score(name: str, function: Callable[[], Any], **facts: Any) -> ScoreInfo:
    """The record of a score network that a function returns; arguments as of `made_classifier`."""

    def load() -> Any:
        from torch import nn

        from defenses.models.score_models import DataScore, ScoreModel

        made = make(function, name)
        if not isinstance(made, (ScoreModel, DataScore)):
            raise ValueError(
                f"Expected {name} to return a score network (a `ScoreModel` or `DataScore`), got {_words(made)}. Wrap "
                "network(x_t, label) -> noise in defenses.models.score_models.NetworkScore(network, image_shape)."
            )
        return made.eval().requires_grad_(False) if isinstance(made, nn.Module) else made

    return _MadeScore(name=name, load=load, find=lambda: _file_of(function), **_facts(name, function, facts))


def make(function: Callable[[], Any], name: str) -> Any:
    """What a function of the user's returns, called under a fixed seed of torch's, which is as before afterwards.

    Raises:
        ValueError: it takes arguments.
    """
    import torch

    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"Expected {name} as a function without arguments that returns a network ({error})."
        ) from error
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(0)  # random weights are the same in every process
        return function()
    finally:
        torch.set_rng_state(before)


def _facts(name: str, function: Callable[[], Any], facts: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in facts.items() if value}
    defaults = {"datasets": (), "title": name.rpartition(":")[2], "licence": OWN}
    return {**defaults, "source": str(inspect.getsourcefile(inspect.unwrap(function)) or OWN), **given}


def _file_of(function: Callable[[], Any]) -> Path:
    return Path(inspect.getfile(inspect.unwrap(function)))


def _digest(name: str, load: Callable[[], Any], file: Path) -> str:
    import hashlib

    from defenses.models.network_hash import hash_network

    code = tuple(sorted(hash_own_code(file).items()))
    key = (name, str(file), code)
    if key not in _DIGESTS:
        _DIGESTS[key] = hashlib.sha256(f"{code} {hash_network(load())}".encode()).hexdigest()
    return _DIGESTS[key]


def _words(made: Any) -> str:
    if inspect.isclass(made):
        return f"the class {made.__name__}: write {made.__name__}()"
    return "nothing: write `return`" if made is None else f"a {type(made).__name__}"
