"""The AutoAttack library, either variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks._library import LOOKS, QUERIES, Variant, check_variant, run_library
from bench.attacks.base import Attack, Trace, register
from bench.threat import ThreatModel
from defenses.base import Defended


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    Attributes:
        variant: the library's `version`: "standard" (see `autoattack_standard`) or "rand" (see `autoattack_rand`).
    """

    title: ClassVar[str] = "AutoAttack"
    source: ClassVar[str] = "Croce & Hein, ICML 2020, arXiv:2003.01690; pyautoattack"
    batch_coupled: ClassVar[bool] = True

    variant: Variant = "standard"

    def __post_init__(self) -> None:
        check_variant(self.variant)

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return QUERIES[self.variant]

    def looks(self) -> int:
        """See `Attack.looks`."""
        return LOOKS[self.variant]

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
        return run_library(self.variant, model, images, labels, image_ids, threat, seed, trace)
