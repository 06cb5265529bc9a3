"""The images of a run as arrays: how often each was right. A million of them fit where a million records would not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records import ImageRecord, Votes
from bench.statistics import compare_counts, is_vote_correct

COUNTS = ("draws", "clean", "robust", "null", "rounded")
UNKNOWN = -1  # where images were not judged as 8-bit pictures
VotesOf = Callable[[Sequence[int], Sequence[int]], Mapping[int, Votes]]
"""(runs, places of images) -> place -> votes on the adversarial image, summed over the runs."""


@dataclass(frozen=True)
class Tally:
    """Images of one run or of several, each once, in the order of their places in the data set.

    Attributes:
        index: (images,) place in the data set's test split.
        label: (images,) true class.
        draws: (images,) judging draws.
        clean: (images,) draws that gave the clean image its label.
        robust: (images,) the same of the adversarial image.
        null: (images,) the same of the null image.
        rounded: (images,) the same of the adversarial image as an 8-bit picture, UNKNOWN where it was not asked.
        runs: whose images they are.
        votes_of: asked for the votes of the few images where the counts do not decide who has most.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    draws: NDArray[np.int64]
    clean: NDArray[np.int64]
    robust: NDArray[np.int64]
    null: NDArray[np.int64]
    rounded: NDArray[np.int64]
    runs: tuple[int, ...]
    votes_of: VotesOf

    def __len__(self) -> int:
        return len(self.index)

    def vote_right(self) -> NDArray[np.int64]:
        """1 where the label has more votes than any other on the adversarial image; ties count against the defense."""
        right = (2 * self.robust > self.draws).astype(np.int64)
        open_ = np.flatnonzero((right == 0) & (self.robust > 0))
        votes = self.votes_of(self.runs, self.index[open_].tolist()) if len(open_) else {}
        for i in open_:
            right[i] = is_vote_correct(votes[int(self.index[i])], int(self.label[i]))
        return right

    def pick(self, places: NDArray[Any]) -> Tally:
        """Some of the images."""
        columns = {name: getattr(self, name)[places] for name in ("index", "label", *COUNTS)}
        return replace(self, **columns)


def tally_rows(run: int, rows: Any, votes_of: VotesOf) -> Tally:
    """Tally rows (index, label, draws, clean, robust, null, rounded) of a run, each image once."""
    numbers = np.asarray(rows, dtype=np.int32).reshape(-1, 7)
    index, label, draws, clean, robust, null, rounded = numbers[np.argsort(numbers[:, 0], kind="stable")].T
    return Tally(index, label, draws, clean, robust, null, rounded, (run,), votes_of)


def tally_records(run: int, records: Sequence[ImageRecord], find: Callable[[int], Sequence[ImageRecord]]) -> Tally:
    """Tally records.

    Args:
        run: whose they are.
        records: its images.
        find: any run -> its images.
    """

    def votes_of(runs: Sequence[int], places: Sequence[int]) -> dict[int, Votes]:
        wanted = set(places)
        found: dict[int, Counter[int]] = {place: Counter() for place in places}
        for record in (record for one in runs for record in find(one) if record.index in wanted):
            found[record.index].update(record.robust_votes)
        return dict(found)

    rows = [
        (r.index, r.label, r.draws, r.clean_correct, r.robust_correct, r.null_correct)
        + (UNKNOWN if r.rounded_votes is None else r.rounded_votes.get(r.label, 0),)
        for r in records
    ]
    return tally_rows(run, rows, votes_of)


def join_tallies(tallies: Sequence[Tally]) -> Tally:
    """Several runs as one: each image once, with the draws of all."""
    if len(tallies) == 1:
        return tallies[0]
    index = np.concatenate([tally.index for tally in tallies])
    kept, first, place = np.unique(index, return_index=True, return_inverse=True)
    label = np.concatenate([tally.label for tally in tallies])[first]
    sums: dict[str, Any] = {
        name: np.bincount(place, np.concatenate([getattr(tally, name) for tally in tallies])).astype(np.int64)
        for name in COUNTS
    }
    unknown = np.bincount(place, np.concatenate([tally.rounded == UNKNOWN for tally in tallies])) > 0
    sums["rounded"][unknown] = UNKNOWN
    runs = tuple(run for tally in tallies for run in tally.runs)
    return replace(tallies[0], index=kept, label=label, runs=runs, **sums)


def pair(a: Tally, b: Tally) -> tuple[Tally, Tally]:
    """The images that both saw, in the same order.

    Raises:
        ValueError: an image has two labels.
    """
    if len(a) != len(b) or (a.index != b.index).any():
        _, mine, theirs = np.intersect1d(a.index, b.index, assume_unique=True, return_indices=True)
        a, b = a.pick(mine), b.pick(theirs)
    if (odd := a.index[a.label != b.label]).size:
        raise ValueError(f"Image {odd[0]} has two labels. Compare cells of the same dataset.")
    return a, b


def compare_tallies(a: Tally, b: Tally) -> dict[str, float]:
    """Paired comparison of two tallies of the same images (see `pair`), as `bench.statistics.compare`."""
    return compare_counts((a.robust, a.draws, a.vote_right()), (b.robust, b.draws, b.vote_right()))
