"""The AutoAttack library, either variant."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks._library import LOOKS, QUERIES, Variant, check_variant, run_library
from bench.attacks.base import Attack, Trace, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended


class LibraryAttack(Attack):
    """What the three names of the AutoAttack library share."""

    source: ClassVar[str] = "Croce & Hein, ICML 2020, arXiv:2003.01690; pyautoattack"
    batch_coupled: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS

    @property
    @abstractmethod
    def library_version(self) -> Variant:
        """The library's name of what is run."""

    def queries(self) -> tuple[int, int]:
        """See `Attack.queries`."""
        return QUERIES[self.library_version]

    def looks(self) -> int:
        """See `Attack.looks`."""
        return LOOKS[self.library_version]

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
        return run_library(self.library_version, model, images, labels, image_ids, threat, seed, trace)


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttack(LibraryAttack):
    """AutoAttack (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    Attributes:
        variant: the library's `version`: "standard" (see `autoattack_standard`) or "rand" (see `autoattack_rand`).
    """

    title: ClassVar[str] = "AutoAttack"

    variant: Variant = "standard"

    def __post_init__(self) -> None:
        check_variant(self.variant)

    @property
    def library_version(self) -> Variant:
        """See `LibraryAttack.library_version`."""
        return self.variant
