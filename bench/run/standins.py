"""How often an answer of a defense calls each of its networks: counted on networks of a few weights in their place.

The count does not depend on what networks compute, so that it needs neither their weights nor their cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.attacks.base import Oracle
from bench.cell import Cell
from bench.datasets import dataset_info
from bench.run.meter import Meter
from bench.run.prepare import names_of
from defenses.base import Gradient
from defenses.models.classifiers import CLASSIFIERS, classifier_info
from defenses.models.score_models import NetworkScore
from defenses.models.scores import SCORES, load_score, score_info
from defenses.models.untrained import knows_score

PREFIX = "stand_in_"
SIDE = 8  # pixels of the pictures, where no real network asks for others
ROWS, CLASSES = 2, 10


@dataclasses.dataclass(frozen=True)
class Passes:
    """Calls of a network behind one answer for one image.

    Attributes:
        forward: passes, those that are repeated for a gradient included.
        backward: gradients of a pass.
    """

    forward: float
    backward: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Called:
    """Calls behind one answer for one image.

    Attributes:
        scores: name of each score network -> its calls.
        classifiers: name of each classifier -> its calls.
    """

    scores: dict[str, Passes]
    classifiers: dict[str, Passes]


def count_calls(cell: Cell, kind: Gradient, *, gradient: bool) -> Called:
    """Count the calls behind an answer of a cell's defense.

    Args:
        cell: names the networks and the defense.
        kind: of gradient that the attacker has.
        gradient: whether it is asked for.

    Raises:
        LookupError: a score network of another kind than the public ones is not on this machine.
        ValueError: the defense has no such gradient.
    """
    classifiers, scores = names_of(cell)
    nets: dict[str, Any] = {f"classifier {name}": _Classifier(_channels(cell)) for name in classifiers}
    nets |= {f"score {name}": _score(name, cell) for name in scores}
    own = cell.defense.networks()
    defense = cell.defense.with_networks({name: PREFIX + name for name in (*own.classifiers, *own.scores)})
    object.__setattr__(defense, "checkpoint_every", 1)  # as where no graph of a large network fits
    with _registered(nets), ExitStack() as stack:
        counters = {name: _Passes(*_module(network)) for name, network in nets.items()}
        for counter in counters.values():
            stack.enter_context(counter)
        score = nets.get(f"score {cell.score}") if cell.score else None
        model = defense.defend(nets[f"classifier {cell.classifier}"], score, gradient=kind).eval()
        images = torch.full((ROWS, *_shape(cell, nets)), 0.5)
        ids = torch.arange(ROWS)
        oracle = Oracle(model, torch.zeros(ROWS, dtype=torch.int64), ids, seed=0, role="forecast")
        for counter in counters.values():  # what a defense calls while it is built is no part of an answer
            counter.take()
        (oracle.gradient if gradient else oracle.evaluate)(images, 0)
        found = {name: counter.passes(ROWS) for name, counter in counters.items()}
    return Called(scores=_named(found, "score "), classifiers=_named(found, "classifier "))


def _named(found: dict[str, Passes], prefix: str) -> dict[str, Passes]:
    return {name.removeprefix(prefix): passes for name, passes in found.items() if name.startswith(prefix)}


@contextmanager
def _registered(nets: dict[str, Any]) -> Iterator[None]:
    """While it lasts, the networks that a defense loads by its fields' names are the stand-ins."""

    def record(kind: str, name: str, info: Any) -> Any:
        return dataclasses.replace(info(name), name=PREFIX + name, load=lambda: nets[f"{kind} {name}"], sha256=None)

    split = [key.partition(" ") for key in nets]
    with (
        CLASSIFIERS.temporarily([record(k, name, classifier_info) for k, _, name in split if k == "classifier"]),
        SCORES.temporarily([record(k, name, score_info) for k, _, name in split if k == "score"]),
    ):
        yield


class _Passes(Meter):
    """Counts forward and backward passes apart."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__(*networks)
        self.back = 0

    def take(self) -> int:
        self.back = 0
        return super().take()

    def passes(self, rows: int) -> Passes:
        """Since the last `take`, for each row."""
        return Passes(self.units / rows, self.back / rows)

    def _backward(self, images: int) -> None:
        self.back += images


class _Classifier(nn.Module):
    """Logits of a picture: smooth, so that it can be differentiated twice, and with a layer of features."""

    feature_layers: ClassVar[tuple[str, ...]] = ("first",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        weights = torch.rand((CLASSES, channels, 1, 1), generator=torch.Generator().manual_seed(0))
        self.first = nn.Conv2d(channels, CLASSES, 1, bias=False)
        self.first.weight = nn.Parameter(weights, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.first(x)).mean((2, 3))


class _Noise(nn.Module):
    """A tenth of the state as its noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.weight * x


def _score(name: str, cell: Cell) -> Any:
    """A stand-in for a `NetworkScore`; any other score network itself, which must be on this machine."""
    if knows_score(name):
        labels = "index" if name == "guided256" else "continuous"
        return NetworkScore(_Noise(), (_channels(cell), SIDE, SIDE), labels=labels)  # type: ignore[arg-type]
    real = load_score(name)
    if type(real) is not NetworkScore:
        return real
    shape = (real.image_shape[0], SIDE, SIDE)
    return NetworkScore(_Noise(), shape, labels=real.labels, at_level=real.at_level, schedule=real.schedule)


def _module(score: Any) -> list[nn.Module]:
    """What is counted: the network inside of a score, which has one call an evaluation."""
    found = getattr(score, "network", getattr(score, "energy", score))
    return [found] if isinstance(found, nn.Module) else []


def _channels(cell: Cell) -> int:
    return dataset_info(cell.dataset).image_shape[0]


def _shape(cell: Cell, nets: dict[str, Any]) -> tuple[int, ...]:
    score = nets.get(f"score {cell.score}")
    own: tuple[int, ...] | None = getattr(score, "image_shape", None)
    if own is not None:
        return own
    return dataset_info(cell.dataset).image_shape if score is not None else (_channels(cell), SIDE, SIDE)
