"""Uniform noise in the ball: a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks.base import Attack, Trace, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended
from defenses.noise import Noise, role_seed


@register
@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """One point drawn uniformly from the ball, then clipped to [0, 1]: what no attacker at all would do.

    A control, so nothing is selected: the defense is never asked. An attack that breaks no more than this is no attack.
    """

    title: ClassVar[str] = "uniform noise"
    source: ClassVar[str] = "Control; uniform in the L2 ball by Muller, Commun. ACM 1959; L1 by exponentials alike."
    gradient_free: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS

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
        """Noisy images; see `Attack.perturb`."""
        noise = Noise(role_seed(seed, "selection"), image_ids)
        if threat.norm == "Linf":
            delta = 2 * noise.uniform(images, step=0) - 1
        else:
            share = noise.uniform(images[:, :1, :1, :1], step=1) ** (1 / images[0].numel())
            delta = share * self._on_the_sphere(noise, images, threat)
        return threat.project(images + threat.epsilon * delta, images)

    def _on_the_sphere(self, noise: Noise, images: Tensor, threat: ThreatModel) -> Tensor:
        """Uniform on the sphere of radius one: normals (L2) or signed exponentials (L1) over their norm."""
        if threat.norm == "L2":
            return threat.direction(noise.normal(images, step=0))
        signed = 2 * noise.uniform(images, step=0) - 1
        tiny = torch.finfo(signed.dtype).eps
        exponential = -signed.sign() * torch.log1p(-signed.abs().clamp_max(1 - tiny))
        return exponential / exponential.flatten(1).abs().sum(1).view(-1, *[1] * (images.ndim - 1))
