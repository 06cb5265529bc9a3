"""`bench audit`: how far each kind of gradient of a defense is from the exact one."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.datasets import load_dataset, subset
from defenses.base import GRADIENTS, Defense, Gradient, defenses
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score
from defenses.noise import Noise

STEP = 1e-6  # of the finite differences, image units
DIRECTIONS = 4


def parse_fields(fields: Sequence[str]) -> dict[str, Any]:
    """Read FIELD=VALUE texts: the values are JSON where that parses, else the text itself."""
    parsed = {}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected --set FIELD=VALUE, got {text!r}. For example --set t=0.05.")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def audit(name: str, dataset: str, classifier: str, score: str, images: int, fields: Sequence[str], seed: int) -> str:
    """Compare every kind of gradient with the exact one, and the exact one with finite differences.

    Args:
        name: registered name of the defense.
        dataset: name of the data set.
        classifier: name of the classifier behind the defense.
        score: name of the defense's score network.
        images: number of test images.
        fields: FIELD=VALUE texts, fields of the defense.
        seed: of every random draw.

    Returns:
        Lines with the norm of each kind, its cosine and its norm ratio to the exact one, and the largest error of the
        exact one against finite differences.
    """
    defense = make_defense(name, fields)
    data = load_dataset(dataset)
    picked = subset(data.labels, images, seed)
    x, labels = data.images(picked).double(), torch.as_tensor(data.labels)[picked]
    noise = Noise(seed, picked)
    network, prior = load_classifier(classifier, dataset).double(), _to_double(load_score(score))

    def loss(x: Tensor, kind: Gradient) -> Tensor:
        logits = defense.defend(network, prior, gradient=kind)(x, noise)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def gradient(kind: Gradient) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, kind), leaf)[0]

    kinds = [k for k in GRADIENTS if k != "none" and k in (*defense.gradients, "straight_through", "transfer")]
    found = {kind: gradient(kind) for kind in kinds}
    lines = [f"{defense!r}", f"{images} images of {dataset}, float64, gradient of the summed cross-entropy"]
    exact = found.get("exact")
    if exact is None:
        lines.append("No exact gradient: this defense is not differentiable.")
    for kind, value in found.items():
        lines.append(f"  {kind:18s} norm {float(value.norm()):.4g}" + ("" if exact is None else _compare(value, exact)))
    if exact is not None:
        with torch.no_grad():
            lines += _check_differences(lambda moved: loss(moved, "exact"), x, exact, seed)
    return "\n".join(lines)


def make_defense(name: str, fields: Sequence[str]) -> Defense:
    """Make the defense `name` with the given fields; ValueError lists the fields where one is unknown."""
    cls, values = defenses[name], parse_fields(fields)
    try:
        return cls(**values)
    except TypeError as error:
        known = ", ".join(cls.__dataclass_fields__)
        raise ValueError(f"{name}: {error}. Fields: {known}.") from error


def _to_double(score: Any) -> Any:
    return copy.deepcopy(score).double() if isinstance(score, torch.nn.Module) else score


def _compare(value: Tensor, exact: Tensor) -> str:
    cosine = torch.cosine_similarity(value.flatten(), exact.flatten(), dim=0)
    return f"   cosine {float(cosine):+.4f}   norm ratio {float(value.norm() / exact.norm()):.4g}"


def _check_differences(loss: Any, x: Tensor, exact: Tensor, seed: int) -> list[str]:
    """Compare directional derivatives, numeric and analytic, along random directions and along the gradient."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(DIRECTIONS)]
    worst = 0.0
    for direction in [*directions, exact]:
        direction = direction / direction.norm()
        numeric = (loss(x + STEP * direction) - loss(x - STEP * direction)) / (2 * STEP)
        worst = max(worst, abs(float(numeric - (exact * direction).sum())))
    relative = worst / max(float(exact.norm()), 1e-30)
    return [
        f"Finite differences of the exact gradient ({DIRECTIONS} random directions and its own): "
        f"largest error {relative:.2e} of its norm."
    ]
