"""The AutoAttack library as leaderboards run it."""

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
class AutoAttackStandard(Attack):
    """AutoAttack standard (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    APGD with cross-entropy, targeted APGD with DLR, targeted FAB, Square with 5,000 queries; nine targets, so at least
    10 classes. An image is settled at the first wrong answer. Made for deterministic defenses: for others the library
    warns, and so does the trace.
    """

    title: ClassVar[str] = "AutoAttack standard"
    source: ClassVar[str] = "Croce & Hein, ICML 2020, arXiv:2003.01690; pyautoattack"
    batch_coupled: ClassVar[bool] = True

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return QUERIES["standard"]

    def looks(self) -> int:
        """See `Attack.looks`."""
        return LOOKS["standard"]

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
        return run_library("standard", model, images, labels, image_ids, threat, seed, trace)
