"""Rows of a strip: a clean image, its adversarial one, the difference, and what the defense makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.draw import Tile
from defenses.base import Defended
from defenses.noise import Noise, role_seed

ROLE = "draw"  # of the draws of pictures: no judge and no attack uses it


@dataclass(frozen=True)
class Purified:
    """What a defense made of some images in one draw.

    Attributes:
        images: (batch, channels, height, width) in [0, 1]; of a defense that asks several times, the first time.
        labels: (batch,) its answers.
    """

    images: Tensor
    labels: Tensor


@torch.no_grad()
def purify_draws(model: Defended, images: Tensor, ids: Tensor, *, draws: int, seed: int) -> list[Purified]:
    """Purify images with several draws.

    Args:
        model: the defended classifier.
        images: (batch, channels, height, width) in [0, 1].
        ids: (batch,) integers, for the noise.
        draws: how many.
        seed: of the draws.
    """
    found = []
    for draw in range(draws):
        noise = Noise(role_seed(seed, ROLE), ids, draw)
        runs = getattr(model, "runs", 1) * getattr(model, "votes", 1)
        first = noise.split(runs)[: len(images)] if runs > 1 else noise
        found.append(Purified(model.purify(images, first).clamp(0, 1).cpu(), model(images, noise).argmax(1).cpu()))
    return found


def choose_scale(differences: Tensor) -> float:
    """By how much differences are multiplied so that the largest fills half the range: two digits, rounded down.

    Args:
        differences: (batch, channels, height, width), in [-1, 1].
    """
    largest = float(differences.abs().max())
    if largest == 0:
        return 1.0
    exact = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(exact)) - 1)
    return max(1.0, math.floor(exact / unit + 1e-5) * unit)


def show_difference(clean: Tensor, adversarial: Tensor, scale: float) -> NDArray[np.float32]:
    """Grey where nothing changed; (channels, height, width) in [0, 1]."""
    shown: NDArray[np.float32] = (0.5 + scale * (adversarial - clean)).clamp(0, 1).numpy()
    return shown


def answer_tiles(purified: Sequence[Purified], place: int, label: int, names: Sequence[str]) -> list[Tile]:
    """A tile for each draw of one image, with the answer under it.

    Args:
        purified: the draws.
        place: of the image in its batch.
        label: its true class; -1 where nobody knows it.
        names: of the classes.
    """
    tiles = []
    for draw in purified:
        said = int(draw.labels[place])
        wrong = label >= 0 and said != label
        tiles.append(Tile(draw.images[place].numpy(), f"{name_of(names, said)}{' ✗' * wrong}", wrong))
    return tiles


def name_of(names: Sequence[str], label: int) -> str:
    """A class by its name, shortened where it is long."""
    name = str(names[label]) if 0 <= label < len(names) else f"class {label}"
    first = name.split(",")[0]
    return first if len(first) <= 18 else first[:17] + "…"
