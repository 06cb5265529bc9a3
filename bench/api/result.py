"""What `bench.evaluate` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.cell import Cell
from bench.records import ImageRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement: how a classifier with a defense answers clean and attacked images. Accuracies in percent.

    Printed, it is the table of `bench report`; a notebook shows that as HTML.

    Attributes:
        cell: what was measured: everything that decides the number.
        row: the row of the view `results` (docs/schema.md).
        images: one row an image, in the order of their places in the data. `label`; `clean_correct`, `robust_correct`
            and `null_correct`, how many of the `draws` gave the image its label; the votes behind them; `predicted`,
            the label that most draws gave the adversarial image; `distance`, the perturbation's norm.
    """

    cell: Cell = field(repr=False)
    row: Mapping[str, Any] = field(repr=False)
    images: pd.DataFrame = field(repr=False)
    _text: str = field(repr=False)
    _html: str = field(repr=False)

    @property
    def robust_accuracy(self) -> float:
        """Share of the attacked images that are classified right, in percent: an upper bound of the true one."""
        return float(self.row["robust_accuracy"])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `robust_accuracy`, in percent: what so few images and draws leave open."""
        return float(self.row["robust_low"]), float(self.row["robust_high"])

    @property
    def clean_accuracy(self) -> float:
        """Share of the clean images that are classified right, in percent."""
        return float(self.row["clean_accuracy"])

    @property
    def null_accuracy(self) -> float:
        """The same protocol as for `robust_accuracy`, with epsilon 0: what the defense loses without any attack."""
        return float(self.row["null_accuracy"])

    @property
    def gates(self) -> list[dict[str, Any]]:
        """The validity gates, each with `gate`, `passed`, `value` and `reason`; the quick tier has none."""
        return list(self.row["gates"] or [])

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._html


def frame_of(records: Sequence[ImageRecord]) -> pd.DataFrame:
    """One row an image, see `Result.images`."""
    import pandas as pd

    rows = [
        {
            "index": record.index,
            "label": record.label,
            "predicted": max(sorted(record.robust_votes), key=lambda label: record.robust_votes[label]),
            "draws": record.draws,
            "clean_correct": record.clean_correct,
            "robust_correct": record.robust_correct,
            "null_correct": record.null_correct,
            "distance": record.distance,
            "broken_by": record.broken_by,
            "first_success": record.first_success,
            "clean_votes": dict(record.clean_votes),
            "robust_votes": dict(record.robust_votes),
            "null_votes": dict(record.null_votes),
        }
        for record in sorted(records, key=lambda record: record.index)
    ]
    return pd.DataFrame(rows).set_index("index")
