"""Golden numbers: the toy network of the fixtures, and noise that replays what was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.schedule import VPSchedule
from defenses.models.score_models import NetworkScore

FIXTURES = Path(__file__).parent / "fixtures"


def load(name: str) -> tuple[dict[str, Tensor], dict]:
    """Arrays of a fixture as float64 (integers as int64) tensors, and its JSON record."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {k: torch.from_numpy(np.asarray(file[k])) for k in file.files}
    arrays = {k: v.double() if v.is_floating_point() else v.long() for k, v in arrays.items()}
    return arrays, json.loads((FIXTURES / f"{name}.json").read_text())


def toy_score(g: dict[str, Tensor], tau: Callable[[Tensor], Tensor] = lambda label: label / 999) -> NetworkScore:
    """The toy network eps(x, tau) = (c0 + c1 tau) tanh(conv(x)); tau is a function of the network's label."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        scale = (g["net_c"][0] + g["net_c"][1] * tau(label)).view(-1, 1, 1, 1)
        return scale * torch.tanh(F.conv2d(x, g["net_W"], g["net_b"], padding=1))

    return NetworkScore(network, (3, 8, 8), schedule=VPSchedule())


class RecordedNoise:
    """Noise that returns recorded arrays by (stream, step): normals, and uniforms where given."""

    def __init__(
        self, normals: dict[tuple[int, int], Tensor], uniforms: dict[tuple[int, int], Tensor] | None = None
    ) -> None:
        self.normals, self.uniforms = normals, uniforms or {}

    def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        return self.normals[stream, step].to(like).reshape(like.shape)

    def uniform(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        return self.uniforms[stream, step].to(like).reshape(like.shape)

    def shared(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: object) -> Tensor:
        return self.normals[stream, step].reshape(tuple(shape))

    def shared_uniform(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: object) -> Tensor:
        return self.uniforms[stream, step].reshape(tuple(shape))


def sampler_noise(first: Tensor, rest: Tensor) -> dict[tuple[int, int], Tensor]:
    """Recorded forward noise (step 0) and reverse noises (steps 1..n) on stream 0."""
    return {(0, 0): first, **{(0, k + 1): z for k, z in enumerate(rest)}}
