"""The AutoAttack library as leaderboards run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.attacks._library import Variant
from bench.attacks.autoattack import LibraryAttack
from bench.attacks.base import register


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttackStandard(LibraryAttack):
    """AutoAttack standard (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    APGD with cross-entropy, targeted APGD with DLR, targeted FAB, Square with 5,000 queries; nine targets, so at least
    10 classes. An image is settled at the first wrong answer. Made for deterministic defenses: for others the library
    warns, and so does the trace.
    """

    title: ClassVar[str] = "AutoAttack standard"

    @property
    def library_version(self) -> Variant:
        """See `LibraryAttack.library_version`."""
        return "standard"
