"""What is known about a network without loading it. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.models.weights import sha256_of

if TYPE_CHECKING:
    from torch import nn

    from defenses.models.score_models import DataScore, ScoreModel


@dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """What classifiers and score networks have in common.

    Attributes:
        name: what a cell calls it.
        title: what tables call it; its name where nothing is given.
        datasets: names of the data sets that it was trained on; () where nobody says.
        find: () -> the weight file; raises MissingWeights.
        source: where the weights come from.
        licence: of the weights.
        sha256: what the file must be, 64 hex digits; None where nobody states it.
    """

    name: str
    title: str = ""
    datasets: tuple[str, ...]
    find: Callable[[], Path] = field(repr=False)
    source: str
    licence: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name)

    def weights_sha256(self) -> str:
        """sha256 of the weight file on this machine, for the results' row. Raises MissingWeights."""
        return sha256_of(self.find())


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo(NetworkInfo):
    """What is known about a classifier.

    Attributes:
        load: () -> network on the CPU: images (batch, channels, height, width) in [0, 1] -> logits (batch, classes),
            the normalisation inside. Raises MissingWeights, or ValueError for an altered file.
        clean_accuracy: on the data set's test images, in percent; None where unknown.
        accuracy_source: who measured that, and on what.
    """

    load: Callable[[], nn.Module] = field(repr=False)
    clean_accuracy: float | None = None
    accuracy_source: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreInfo(NetworkInfo):
    """What is known about a score network.

    Attributes:
        load: () -> network on the CPU, in eval mode, without parameter gradients: a `ScoreModel`, which predicts the
            noise at a diffusion time, or a `DataScore`, the score of the images alone. Raises MissingWeights, or
            ValueError for an altered file.
    """

    load: Callable[[], ScoreModel | DataScore] = field(repr=False)
