"""What must hold of stored rows and of the images behind them, each doubt as a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.evidence.batch_file import EvidenceBatch, outcome_of
from bench.records import ROUNDED, VOTES, ImageRecord
from bench.statistics import summarize

if TYPE_CHECKING:
    from torch import Tensor

    from bench.threat import ThreatModel

CLOSE = 1e-6  # percent, and image units
Row = Mapping[str, Any]


def doubt_rows(cell: Row, run: Row, rows: Sequence[Row], *, stochastic: bool) -> Iterator[str]:
    """Rows of `images` that contradict themselves, their cell, or the accuracies of their run.

    Args:
        cell: the row of `cells`.
        run: the row of `runs`.
        rows: of `images`.
        stochastic: whether the defense is.
    """
    if len(rows) != cell["num_images"]:
        yield f"expected {cell['num_images']} images, found {len(rows)}"
    for row in rows:
        yield from _doubt_row(row, cell["draws"])
    records = [_record(row) for row in rows]
    if not all(records):
        return
    again = summarize([record for record in records if record], stochastic=stochastic, seed=cell["seed"])
    for name, value in again.items():
        stored = run[name]
        if name.startswith("rounded") and stored is None:
            continue
        if (stored is None) != (value is None) or (value is not None and abs(stored - value) > CLOSE):
            yield f"{name} is stored as {_number(stored)}, its images give {_number(value)}"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2f} %"


def _doubt_row(row: Row, draws: int) -> Iterator[str]:
    where = f"image {row['image_index']}"
    if row["draws"] != draws:
        yield f"{where}: {row['draws']} draws, the cell asks for {draws}"
    for name in (*VOTES, ROUNDED):
        votes, kind = row[name], name.removesuffix("_votes")
        if votes is None and name == ROUNDED:
            continue
        if sum(votes.values()) != row["draws"]:
            yield f"{where}: {sum(votes.values())} {kind} votes from {row['draws']} draws"
        right, stored = votes.get(row["label"], 0), row[f"{kind}_correct"]
        if stored != right:
            yield f"{where}: {kind}_correct is {stored}, the votes give its label {row['label']} {right}"


def _record(row: Row) -> ImageRecord | None:
    told = ("label", "distance", "broken_by", "first_success", "null_first_success", *VOTES, ROUNDED)
    try:
        return ImageRecord(index=row["image_index"], **{name: row[name] for name in told})
    except ValueError:  # told by `_doubt_row`
        return None


def doubt_file(batch: EvidenceBatch, records: Sequence[ImageRecord]) -> Iterator[str]:
    """What a file of adversarial images says of its images, and the rows of the database do not.

    Args:
        batch: the file.
        records: of the rows of that batch, in their order.
    """
    if list(batch.index) != [record.index for record in records]:
        yield "the images of the file are not those of the rows"
        return
    for place, (kept, record) in enumerate(zip(batch.outcomes, records, strict=True)):
        stored = outcome_of(record)
        for name in [name for name in kept if kept[name] != stored.get(name)]:
            yield f"image {batch.index[place]}: {name} is {stored.get(name)} in the database, {kept[name]} in the file"


def doubt_images(
    batch: EvidenceBatch, clean: Tensor, labels: Tensor, threat: ThreatModel, *, restricted: bool
) -> Iterator[str]:
    """Adversarial images outside of box or ball, at another distance than they say, or with another label.

    Args:
        batch: the file.
        clean: (batch, channels, height, width) in [0, 1], the images of the data set.
        labels: (batch,) of the data set.
        threat: the ball.
        restricted: whether the attack has to stay in it.
    """
    import torch

    adversarial = torch.from_numpy(batch.images.copy())
    if adversarial.shape != clean.shape:
        yield f"images of shape {tuple(adversarial.shape)}, the data set has {tuple(clean.shape)}"
        return
    try:
        threat.check(adversarial, clean, restricted=restricted)
    except ValueError as error:
        yield str(error).partition(" An attack must")[0]
        return
    far = threat.distance(adversarial, clean).tolist()
    for index, distance, kept, label in zip(batch.index, far, batch.outcomes, labels.tolist(), strict=True):
        if abs(distance - kept["distance"]) > CLOSE * max(1.0, distance):
            yield f"image {index}: it is {distance:.7g} from the clean one, {kept['distance']:.7g} is stored"
        if label != kept["label"]:
            yield f"image {index}: label {kept['label']} is stored, the data set says {label}"
