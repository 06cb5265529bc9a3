"""`bench audit`: how far each kind of gradient of a defense is from the exact one."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets import load_dataset, subset
from defenses.base import GRADIENTS, Defense, Gradient, defenses
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score
from defenses.noise import Noise
from defenses.user_file import load_file

STEP = 1e-6  # of the finite differences, image units
DIRECTIONS = 4
START = 8 / 255  # Linf radius of the random start
CONFIRMED = 0.01  # error, as a part of the gradient's norm, up to which finite differences confirm it


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


def audit(
    name: str,
    dataset: str,
    classifier: str,
    score: str,
    images: int,
    fields: Sequence[str],
    seed: int,
    device: str = "cpu",
) -> str:
    """Compare every kind of gradient with the exact one, and the exact one with finite differences.

    Args:
        name: registered name of the defense, or a Python file that defines one or more.
        dataset: name of the data set.
        classifier: name of the classifier behind the defense.
        score: name of the defense's score network.
        images: number of test images.
        fields: FIELD=VALUE texts, fields of the defense.
        seed: of every random draw.
        device: as torch writes it.

    Returns:
        For each defense: lines with the norm of each kind, its cosine and its norm ratio to the exact one, the largest
        error of the exact one against finite differences, at the images and at a random start, and a verdict.

    Raises:
        LookupError: an unknown name, no such file, or a file that defines no defense.
    """
    found = [make_defense(name, fields)] if not name.endswith(".py") else _in_file(name, fields)
    data = load_dataset(dataset)
    picked = subset(data.labels, images, seed)
    x, labels = data.images(picked).double().to(device), torch.as_tensor(data.labels)[picked].to(device)
    network = load_classifier(classifier, dataset).double().to(device)
    prior = _to_double(load_score(score), device)
    heading = f"{images} images of {dataset}, float64, gradient of the summed cross-entropy"
    blocks = []
    for defense in found:
        look = _Look(defense, network, prior, labels, Noise(seed, picked.to(device)), seed)
        blocks.append("\n".join([f"{defense!r}", heading, *look.lines(x)]))
    return "\n\n".join(blocks)


def _in_file(name: str, fields: Sequence[str]) -> list[Defense]:
    """The defenses that a file defines, with the given fields."""
    module = load_file(Path(name))
    own = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Defense) and cls.__module__ == module.__name__
    ]
    own = [cls for cls in own if not inspect.isabstract(cls)]
    if not own:
        raise LookupError(f"Expected a class of Defense in {name}, found none. See docs/your-own.md.")
    return [_make(cls, cls.__name__, fields) for cls in own]


@dataclass(frozen=True)
class _Look:
    """One defense under audit."""

    defense: Defense
    network: torch.nn.Module
    prior: Any
    labels: Tensor
    noise: Noise
    seed: int

    def loss(self, x: Tensor, kind: Gradient) -> Tensor:
        logits = self.defense.defend(self.network, self.prior, gradient=kind).sealed()(x, self.noise)
        return torch.nn.functional.cross_entropy(logits, self.labels, reduction="sum")

    def gradient(self, x: Tensor, kind: Gradient) -> Tensor:
        leaf = x.clone().requires_grad_()
        loss = self.loss(leaf, kind)
        return torch.autograd.grad(loss, leaf)[0] if loss.requires_grad else torch.zeros_like(x)

    def lines(self, x: Tensor) -> list[str]:
        """What was found, the verdict last."""
        kinds = [k for k in GRADIENTS if k != "none" and k in (*self.defense.gradients, "straight_through", "transfer")]
        found = {kind: self.gradient(x, kind) for kind in kinds}
        exact, lines = found.get("exact"), []
        if exact is None:
            lines.append("No exact gradient: this defense declares none.")
        for kind, value in found.items():
            lines.append(
                f"  {kind:18s} norm {float(value.norm()):.4g}" + ("" if exact is None else _compare(value, exact))
            )
        if exact is None:
            return [*lines, "Verdict: nothing to confirm. Attack it with straight_through, transfer and square_eot."]
        generator = torch.Generator().manual_seed(self.seed)
        start = x + START * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) - 1)
        doubts = []
        for place, point in (("at the images", x), ("at a random start", start.clamp(0, 1))):
            value = exact if point is x else self.gradient(point, "exact")
            with torch.no_grad():
                error = _check_differences(lambda moved: self.loss(moved, "exact"), point, value, self.seed)
            size = f"largest error {error:.2e} of its norm" if value.any() else "the gradient is zero"
            lines.append(
                f"Finite differences of the exact gradient {place}, {DIRECTIONS} random directions and its own: {size}."
            )
            zero = int((value.flatten(1).abs().amax(1) == 0).sum())
            if zero:
                doubts.append(f"it is zero for {zero} of {len(x)} images {place}")
            elif not error <= CONFIRMED:
                doubts.append(f"it differs from finite differences by {error:.1%} {place}")
        return [*lines, _verdict(doubts)]


def _verdict(doubts: Sequence[str]) -> str:
    if not doubts:
        return "Verdict: confirmed, at the images and at a random start: the exact gradient is the derivative."
    return (
        f"Verdict: NOT confirmed: {'; '.join(doubts)}. A number under `exact` would be the gradient's weakness, "
        "not the defense's strength."
    )


def make_defense(name: str, fields: Sequence[str]) -> Defense:
    """Make the defense `name` with the given fields; ValueError lists the fields where one is unknown."""
    return _make(defenses[name], name, fields)


def _make(cls: type[Defense], name: str, fields: Sequence[str]) -> Defense:
    values = parse_fields(fields)
    try:
        return cls(**values)
    except TypeError as error:
        known = ", ".join(cls.__dataclass_fields__)
        raise ValueError(f"{name}: {error}. Fields: {known}.") from error


def _to_double(score: Any, device: str) -> Any:
    return copy.deepcopy(score).double().to(device) if isinstance(score, torch.nn.Module) else score


def _compare(value: Tensor, exact: Tensor) -> str:
    cosine = torch.cosine_similarity(value.flatten(), exact.flatten(), dim=0)
    return f"   cosine {float(cosine):+.4f}   norm ratio {float(value.norm() / exact.norm()):.4g}"


def _check_differences(loss: Any, x: Tensor, exact: Tensor, seed: int) -> float:
    """Largest error of directional derivatives along random directions and the gradient, as a part of its norm."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for _ in range(DIRECTIONS)]
    worst = 0.0
    for direction in [*directions, exact]:
        direction = direction / direction.norm().clamp_min(1e-30)
        numeric = (loss(x + STEP * direction) - loss(x - STEP * direction)) / (2 * STEP)
        worst = max(worst, abs(float(numeric - (exact * direction).sum())))
    return worst / max(float(exact.norm()), 1e-30)
