"""The AutoAttack library's version for stochastic defenses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.attacks._library import Variant
from bench.attacks.autoattack import LibraryAttack
from bench.attacks.base import register


@register
@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(LibraryAttack):
    """AutoAttack rand (Croce & Hein, ICML 2020), the library unchanged, for parity with the literature.

    APGD with cross-entropy, then with DLR (at least 3 classes), 100 steps, 20 draws a gradient, one call of the defense
    a draw. Its schedule and its choice of images look at the last draw only; `apgd_eot` looks at all of them.
    """

    title: ClassVar[str] = "AutoAttack rand"

    @property
    def library_version(self) -> Variant:
        """See `LibraryAttack.library_version`."""
        return "rand"
