"""The AutoAttack library's version for stochastic defenses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks._library import LOOKS, QUERIES, run_library
from bench.attacks.base import Attack, Trace, register
from bench.threat import ThreatModel
from defenses.base import Defended


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(Attack):
    """AutoAttack rand (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    APGD with cross-entropy, then with DLR (at least 3 classes), 100 steps, 20 draws a gradient, one call of the defense
    a draw. Its schedule and its choice of images look at the last draw only; `apgd_eot` looks at all of them.
    """

    title: ClassVar[str] = "AutoAttack rand"
    source: ClassVar[str] = "Croce & Hein, ICML 2020, arXiv:2003.01690; pyautoattack"
    batch_coupled: ClassVar[bool] = True

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return QUERIES["rand"]

    def looks(self) -> int:
        """See `Attack.looks`."""
        return LOOKS["rand"]

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
        """Adversarial images, as the library returns them; see `Attack.perturb`."""
        return run_library("rand", model, images, labels, image_ids, threat, seed, trace)
