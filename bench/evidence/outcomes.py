"""The images of a run with what was said of each, as arrays and as rows, for people and programs outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.evidence.batch_file import EvidenceBatch
from bench.records import ROUNDED, VOTES, ImageRecord

COUNTS = ("draws", "clean_correct", "robust_correct", "null_correct")
PLAIN = ("label", *COUNTS, "rounded_correct", "distance", "broken_by", "first_success", "null_first_success")


@dataclass(frozen=True)
class Outcomes:
    """The images of a run in the order in which they were judged.

    Attributes:
        images: (n, channels, height, width) float32 in [0, 1], adversarial.
        records: of the same images.
        classes: number of classes.
    """

    images: NDArray[np.float32] = field(repr=False)
    records: tuple[ImageRecord, ...] = field(repr=False)
    classes: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        """`x_adv`, `y`, `index`, as `bench verify --images` takes them, and counts, distances and votes.

        Votes are (n, classes): how many draws gave each label.
        """
        found: dict[str, NDArray[Any]] = {
            "x_adv": self.images,
            "y": np.array([r.label for r in self.records], dtype=np.int64),
            "index": np.array([r.index for r in self.records], dtype=np.int64),
            "distance": np.array([r.distance for r in self.records]),
        }
        found |= {name: np.array([getattr(r, name) for r in self.records], dtype=np.int64) for name in COUNTS}
        for name in (*VOTES, ROUNDED):
            if all(getattr(r, name) is not None for r in self.records):
                found[name] = np.array([self._tally(getattr(r, name)) for r in self.records], dtype=np.int64)
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row an image, without its pixels: counts, distances, outcomes, votes as {label: draws}."""
        for record in self.records:
            row = {"index": record.index, **{name: getattr(record, name) for name in PLAIN}}
            for name in (*VOTES, ROUNDED):
                votes = getattr(record, name)
                row[name] = None if votes is None else {str(label): votes[label] for label in sorted(votes)}
            yield row

    def _tally(self, votes: Any) -> list[int]:
        return [votes.get(label, 0) for label in range(self.classes)]


def join_batches(batches: Sequence[EvidenceBatch], records: Sequence[ImageRecord], classes: int) -> Outcomes:
    """The images of a run's files with the records of the database.

    Args:
        batches: all files of the run.
        records: of all its images.
        classes: number of classes of its data set; votes for a label beyond it widen the arrays.

    Raises:
        ValueError: a file lacks an image.
    """
    known = {i: batch.images[place] for batch in batches for place, i in enumerate(batch.index)}
    missing = [record.index for record in records if record.index not in known]
    if missing:
        raise ValueError(f"Expected the adversarial images of all {len(records)} images, found none of {missing[0]}.")
    labels = [label for r in records for name in VOTES for label in getattr(r, name)]
    images = np.stack([known[record.index] for record in records])
    return Outcomes(images, tuple(records), max([classes - 1, *labels]) + 1)
