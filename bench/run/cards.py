"""Cards that a forecast knows, and how fast large networks run on them: modelled, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from defenses.precision import Precision

TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card as the model sees it.

    Attributes:
        title: as people write it.
        sustained: precision -> operations a second that large networks reach, modelled and not measured.
    """

    title: str
    sustained: Mapping[Precision, float]


CARDS: Mapping[str, Card] = {
    "h100": Card(title="H100", sustained={"float32": 57 * TERA, "tf32": 141 * TERA, "bfloat16": 243 * TERA}),
    "a100": Card(title="A100", sustained={"float32": 16.6 * TERA, "tf32": 44.5 * TERA, "bfloat16": 76.6 * TERA}),
}
"""SXM cards. The A100's rates are the H100's shares of the peaks in the vendor's tables: 85, 29 and 25 % of 67, 495 and
989 TFLOP/s there, of 19.5, 156 and 312 here."""
