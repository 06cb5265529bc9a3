"""The distillation objective of OSCP (Lei et al., "Instant Adversarial Purification", CVPR 2025, arXiv:2408.17064)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.training.score import Predict

STRIDE = 20  # levels a step of the teacher's 50-step solver
TIME_SCALE, SPREAD = 10, 0.5  # of the boundary weights (latent consistency models; Luo et al., arXiv:2310.04378)


@dataclass(frozen=True)
class Distillation:
    """States of one batch: noised by an attack's shift and a normal together, and one solver step closer to clean.

    The student is to answer both alike, with the image. Where the source's solver would ask a teacher for the noise, it
    takes the true one, so that no teacher is needed. It is stated on latents of an autoencoder; on the [-1, 1] space of
    a small network it is the same.

    Attributes:
        clean: (batch, channels, height, width).
        attacked: same shape.
        normal: standard normals, same shape.
        index: (batch,) steps of the solver, in 0 .. len(alpha_bar) / 20 - 1; index 0 ends at level 0.
        alpha_bar: (levels,) squared signal scales.
    """

    clean: Tensor
    attacked: Tensor
    normal: Tensor
    index: Tensor
    alpha_bar: Tensor

    @property
    def start(self) -> Tensor:
        """Level (batch,) of the noised state."""
        return STRIDE * (self.index + 1) - 1

    @property
    def end(self) -> Tensor:
        """Level (batch,) after the step, as the network is told."""
        return (self.start - STRIDE).clamp_min(0)

    def state(self, level: Tensor) -> Tensor:
        """The clean image with the attack's shift and the normal as its noise, at levels (batch,)."""
        a = _column(self.alpha_bar[level])
        return a.sqrt() * self.clean + (1 - a).sqrt() * (self.normal + self.attacked - self.clean)

    def student(self, network: Predict, level: Tensor) -> Tensor:
        """The image that the network sees behind `state`: the state itself at level 0, its own prediction far from 0.

        Args:
            network: (state, level (batch,)) -> noise.
            level: (batch,).
        """
        z, a, t = self.state(level), _column(self.alpha_bar[level]), TIME_SCALE * _column(level).to(self.clean.dtype)
        root = torch.sqrt(t**2 + SPREAD**2)
        predicted = (z - (1 - a).sqrt() * network(z, level)) / a.sqrt()
        return (SPREAD / root) ** 2 * z + t / root * predicted


def distillation_loss(batch: Distillation, network: Predict, *, pull: float = 1e-3) -> Tensor:
    """Mean squared distance of the student's two answers, the later one held constant, plus a pull to the clean image.

    Args:
        batch: the states.
        network: (state, level (batch,)) -> noise.
        pull: weight of the distance to the clean image, >= 0.
    """
    found = batch.student(network, batch.start)
    with torch.no_grad():
        target = batch.student(network, batch.end)
    return (found - target).square().mean() + pull * (found - batch.clean).square().mean()


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
