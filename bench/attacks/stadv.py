"""Spatial attack: pixels move, and nothing is added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attacks._adam import Adam
from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended


def identity_grid(images: Tensor) -> Tensor:
    """Sampling grid (batch, height, width, 2) of cell centres in [-1, 1], last axis (x, y), that changes nothing."""
    axes = [(2 * torch.arange(n, device=images.device, dtype=images.dtype) + 1) / n - 1 for n in images.shape[2:]]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y), -1).repeat(len(images), 1, 1, 1)


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """Images sampled bilinearly at the grid; zeros outside."""
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def flow_norm(flow: Tensor) -> Tensor:
    """(batch,) roughness of a flow (batch, height, width, 2): lengths of its differences to the four neighbours."""
    padded = F.pad(flow.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    centre = padded[:, :, 1:-1, 1:-1]
    neighbours = (padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1], padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:])
    return torch.stack([((centre - n) ** 2).sum(1).add(1e-10).sqrt().sum((1, 2)) for n in neighbours]).sum(0)


@register
@dataclass(frozen=True, kw_only=True)
class StAdv(Attack):
    """StAdv with EOT (Xiao et al., "Spatially Transformed Adversarial Examples", ICLR 2018, Eqs. 1-4).

    Adam moves a sampling grid to maximise the mean margin of the draws minus smoothness / bound times the flow's
    roughness. The last iterate is returned, as in DiffPure's and the authors' evaluations; the grid is clamped to the
    image, then to the bound, before every warp. Unrestricted: the threat model's epsilon plays no part.

    Attributes:
        steps: at least 1.
        bound: largest displacement of a sampling point along an axis, in units of half the image's side, > 0.
        learning_rate: of Adam, same units, > 0.
        eot: draws a step, at least 1, in one batch.
        smoothness: weight of the roughness, >= 0.
    """

    title: ClassVar[str] = "StAdv"
    source: ClassVar[str] = "Xiao et al., ICLR 2018, arXiv:1801.02612; EOT as in Nie et al., ICML 2022"
    restricted: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    bound: float = 0.05
    learning_rate: float = 0.01
    eot: int = 20
    smoothness: float = 0.0025

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, bound=self.bound, learning_rate=self.learning_rate, eot=self.eot)
        if not self.smoothness >= 0:
            raise ValueError(f"Expected smoothness >= 0, got {self.smoothness}.")

    def perturb(
        self,
        model: Defended,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        seed: int,
        *,
        trace: Trace | None = None,
    ) -> Tensor:
        """Adversarial images; see `Attack.perturb`."""
        oracle = Oracle(model, labels, image_ids, seed, eot=self.eot, loss="margin", trace=trace)
        identity = identity_grid(images)
        grid = identity.clone().requires_grad_()
        optimizer = Adam(([grid], self.learning_rate))
        for step in resumable(range(self.steps), optimizer):
            self._clamp(grid, identity)
            warped = warp(images, grid)
            answer = oracle.gradient(warped.detach().clamp(0, 1), step * self.eot)
            if trace is not None:
                trace.log(self.name, step, image_ids, answer.loss, answer.correct, draw=step * self.eot)
            roughness = self.smoothness / self.bound * flow_norm(grid - identity).sum()
            assert answer.gradient is not None
            (grid.grad,) = torch.autograd.grad(roughness - (answer.gradient * warped).sum(), grid)
            optimizer.step()
        self._clamp(grid, identity)
        return warp(images, grid.detach()).clamp(0, 1)

    def _clamp(self, grid: Tensor, identity: Tensor) -> None:
        with torch.no_grad():
            grid.clamp_(-1, 1)
            grid.copy_(torch.minimum(torch.maximum(grid, identity - self.bound), identity + self.bound))
