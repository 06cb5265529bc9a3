"""What the contract tests run every defense with: tiny networks, few steps, three images of 1x8x8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.base import Defended, Defense, Gradient, Purifier, defenses
from defenses.diffusion.schedule import VPSchedule
from defenses.models.conditional import ConditionalScore
from defenses.models.networks.small_cnn import SmallCNN
from defenses.noise import Noise

SHAPE = (1, 8, 8)
COUNT = 3
FEW = {"runs": 2, "steps": 3, "rounds": 2, "iterations": 3, "t": 0.03}  # at most so much of these fields
SPECIAL: dict[str, dict[str, Any]] = {
    "diffusion_classifier": {"levels": 3},
    "gradual_noise": {"levels": (4, 6)},
    "heterogeneous_noise": {"t_weak": 0.02},
    "ssni": {"norm_low": 0.0, "norm_high": 250.0, "score_levels": 3, "steps": None},
}
VARIANTS = [
    ("contrastive", {"per_image": True}),
    ("adp", {"stop": "batch", "stop_below": 0.02715, "t": 0.1}),
    ("mimic", {"softness": 0.5}),
    ("denoised_smoothing", {"steps": 2, "votes": 2}),
    ("diffusion_classifier", {"maximization_steps": 2}),
]  # declared otherwise than their class


def fast(name: str, fields: dict[str, Any] | None = None) -> Defense:
    """The defense with its defaults, except where that takes long; a new file needs nothing here."""
    quick: dict[str, Any] = {}
    for field in dataclasses.fields(defenses[name]):
        if field.name in FEW and field.type in ("int", "int | None", "float"):
            quick[field.name] = FEW[field.name] if field.default is None else min(FEW[field.name], field.default)
    if "runs" in quick:
        quick["runs"] = 2
    return defenses.make(name, {**quick, **SPECIAL.get(name, {}), **(fields or {})})


def cases() -> list[Defense]:
    """Every registered defense, and variants whose declarations differ from those of their class."""
    return [fast(name) for name in defenses] + [fast(*variant) for variant in VARIANTS if variant[0] in defenses]


class Network(nn.Module):
    """Smooth noise prediction: exact for N(0, 1/4) data in [-1, 1], plus a little convolution. Counts its images.

    classes: (batch,), a little shift for each class.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.register_buffer("weight", weights)
        self.images = 0

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        self.images += len(x)
        t = (label.to(x.dtype) / 999).view(-1, 1, 1, 1)
        a = VPSchedule().alpha_bar(t)
        linear = (1 - a).clamp_min(1e-6).sqrt() / (0.25 * a + 1 - a) * x
        shift = 0.0 if classes is None else (0.02 * classes).to(x.dtype).view(-1, 1, 1, 1)
        return linear + 0.1 * (1 + t) * torch.tanh(F.conv2d(x, self.weight.to(x.dtype), padding=1) + shift)


def tiny_score() -> ConditionalScore:
    """A score network, of any class or a given one, whose `network.images` counts the images that it was shown."""
    return ConditionalScore(Network(), SHAPE, classes=10)


@cache
def tiny_classifier(dtype: torch.dtype) -> nn.Module:
    """A smooth classifier of ten classes."""
    torch.manual_seed(0)
    return SmallCNN(width=4).to(dtype).eval().requires_grad_(False)


def tiny_images(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """(3, 1, 8, 8) images in [0, 1]."""
    return torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tiny_noise(seed: int = 0) -> Noise:
    """Noise of three images."""
    return Noise(seed, torch.tensor([4, 11, 7]))


def defended(defense: Defense, dtype: torch.dtype = torch.float64, gradient: Gradient | None = None) -> Defended:
    """The defended tiny classifier, its gradient exact where there is one. Skips where weights are not here."""
    kind = gradient or ("exact" if "exact" in defense.gradients else "none")
    try:
        return defense.defend(tiny_classifier(dtype), tiny_score(), gradient=kind)
    except LookupError as missing:
        pytest.skip(str(missing))


def smooth_answer(defense: Defense, model: Defended) -> Callable[[Tensor, Noise], Tensor]:
    """What is differentiable end to end: a purification (a vote has no gradient of its own), or the logits."""
    return model.purify if isinstance(defense, Purifier) else model
