"""No attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks.base import Attack, Trace, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended


@register
@dataclass(frozen=True, kw_only=True)
class Clean(Attack):
    """The images as they are: clean accuracy, and a control for every attack."""

    title: ClassVar[str] = "no attack"
    source: ClassVar[str] = "No attack."
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
        """The images themselves."""
        return images
