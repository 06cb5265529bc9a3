"""Networks of the caller's as registered ones: a classifier or a score network that is already in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.api.given_pictures import GIVEN
from defenses.base import Defended
from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.models.network_hash import hash_network
from defenses.models.score_models import DataScore, ScoreModel
from defenses.precision import arithmetic

LICENCE = "the user's own"


class _GivenClassifier(ClassifierInfo):
    def weights_sha256(self) -> str:
        assert self.sha256 is not None
        return self.sha256


class _GivenScore(ScoreInfo):
    def weights_sha256(self) -> str:
        assert self.sha256 is not None
        return self.sha256


def _no_file() -> Path:
    raise LookupError("This network was given in Python and has no file.")


def given_classifier(model: Any, dataset: str) -> ClassifierInfo:
    """The record of a classifier in memory.

    Args:
        model: images (batch, channels, height, width) in [0, 1] -> logits, the normalisation inside.
        dataset: what it is measured on.

    Raises:
        ValueError: no network, or one that is defended already.
    """
    if isinstance(model, Defended):
        raise ValueError("Expected a bare classifier, got a defended one. Give its classifier, and the defense apart.")
    if not isinstance(model, nn.Module):
        raise ValueError(f"Expected a torch nn.Module or the name of a classifier, got {type(model).__name__}.")
    digest, kind = hash_network(model), type(model).__name__
    return _GivenClassifier(
        name=f"{GIVEN}{kind}:{digest[:12]}", title=kind, datasets=(dataset,), load=lambda: model, find=_no_file,
        source="given in Python", licence=LICENCE, sha256=digest,
    )  # fmt: skip


def named_classifier(info: ClassifierInfo, network: nn.Module, dataset: str) -> ClassifierInfo:
    """The record of a registered classifier, loaded, that is measured on pictures of the caller's."""
    return dataclasses.replace(info, name=f"{GIVEN}{info.name}", datasets=(dataset,), load=lambda: network)


def given_score(score: Any) -> ScoreInfo:
    """The record of a score network in memory. Raises ValueError for something else."""
    if not isinstance(score, (ScoreModel, DataScore)):
        raise ValueError(
            f"Expected a score network (a `ScoreModel` or `DataScore`) or the name of one, got {type(score).__name__}. "
            "Wrap network(x_t, label) -> noise in defenses.models.score_models.NetworkScore(network, image_shape)."
        )
    digest, kind = hash_network(score), type(score).__name__
    return _GivenScore(
        name=f"{GIVEN}{kind}:{digest[:12]}", title=kind, datasets=(), load=lambda: score, find=_no_file,
        source="given in Python", licence=LICENCE, sha256=digest,
    )  # fmt: skip


def try_classifier(network: nn.Module, images: Tensor) -> int:
    """Ask a classifier about a few images, and count its classes.

    Args:
        network: in eval mode.
        images: (batch, channels, height, width) in [0, 1], on the CPU.

    Raises:
        ValueError: it does not take these images, or does not answer with finite logits (batch, classes).
    """
    shown = f"float32 images {tuple(images.shape)} in [0, 1]"
    try:
        with torch.no_grad():
            logits = network(images.to(device_of(network) or images.device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"Expected a classifier of {shown}, but it answered: {str(error).splitlines()[0]}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"Expected logits (batch, classes) for {shown}, got {got}. Wrap the network in one that does.")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"Expected finite logits for {shown}, got NaN or infinity. Check the weights and precision.")
    return logits.shape[1]


def device_of(*networks: Any) -> torch.device | None:
    """Where the first parameter of the first network that has any lies."""
    for network in networks:
        for parameter in network.parameters() if isinstance(network, nn.Module) else ():
            return parameter.device
    return None


@contextmanager
def left_as_found(*networks: Any) -> Iterator[None]:
    """Afterwards the caller's networks train or not, take gradients or not, and lie where they did before."""
    modules = [network for network in networks if isinstance(network, nn.Module)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    takes = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    places = [(module, device_of(module)) for module in modules]
    try:
        with arithmetic():
            yield
    finally:
        for module, place in places:
            if place is not None:
                module.to(place)
        for part, training in modes:
            part.training = training
        for parameter, taken in takes:
            parameter.requires_grad_(taken)
