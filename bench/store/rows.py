"""Records and keyword arguments to rows and back, and the checks that stand before a write."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from bench.records import VOTES, BatchRecord, ImageRecord
from bench.store.database import StoreError, plain, to_json
from bench.store.packing import packed, unpacked
from bench.store.schema import Base, BatchRow, CellRow, ImageRow, PublishedRow, RunRow

Row = dict[str, Any]
REFRESHED = ("grid", "published_key", "batch_size")  # columns of a cell that its key does not cover
COUNTS = ("draws", "clean_correct", "robust_correct", "null_correct")
OUTCOMES = ("distance", "broken_by", "first_success", "null_first_success")


def image_row(image: ImageRecord, *, run_id: int, batch: int, position: int) -> Row:
    """A row of `images`, its numbers plain Python ones."""
    votes = {name: {str(int(k)): int(v) for k, v in getattr(image, name).items()} for name in VOTES}
    counts = {name: int(getattr(image, name)) for name in COUNTS}
    outcomes = {name: plain(getattr(image, name)) for name in OUTCOMES}
    place = {"run_id": run_id, "batch": batch, "position": position, "image_index": int(image.index)}
    return {**place, "label": int(image.label), **votes, **counts, **outcomes}


def image_record(row: Mapping[str, Any]) -> ImageRecord:
    """The inverse of `image_row`."""
    clean, robust, null = ({int(k): v for k, v in row[name].items()} for name in VOTES)
    outcomes = {name: row[name] for name in OUTCOMES}
    return ImageRecord(
        index=row["image_index"],
        label=row["label"],
        clean_votes=clean,
        robust_votes=robust,
        null_votes=null,
        **outcomes,
    )


def batch_row(batch: BatchRecord, run_id: int) -> Row:
    """A row of `batches`, its curve packed."""
    evaluations = int(batch.network_evaluations)
    return {
        "run_id": run_id,
        "number": int(batch.number),
        "seconds": float(batch.seconds),
        "network_evaluations": evaluations,
        "curve": packed([{name: plain(value) for name, value in step.items()} for step in batch.curve]),
    }


def batch_record(row: Mapping[str, Any]) -> BatchRecord:
    """The inverse of `batch_row`."""
    values = {name: value for name, value in row.items() if name != "run_id"}
    return BatchRecord(**{**values, "curve": unpacked(row["curve"])})


def checked(values: Mapping[str, Any], table: type[Base], refused: Sequence[str] = ()) -> Row:
    """`values` as plain Python ones; StoreError where a name is no column of `table` or is `refused`."""
    known = [name for name in table.__table__.columns.keys() if name not in refused]
    for name in values:
        if name not in known:
            raise StoreError(f"Table {table.__tablename__} takes no {name!r} here. It takes: {', '.join(known)}.")
    return {name: plain(value) for name, value in values.items()}


def equal(stored: Any, asked: Any) -> bool:
    """Equal once both have been through JSON, as a tuple and a list are."""
    return to_json(stored) == to_json(asked)


def check_same_cell(stored: RowMapping, row: Row) -> None:
    """StoreError unless a cell that is stored is the one that was asked for."""
    for name, value in row.items():
        if name not in REFRESHED and not equal(stored[name], value):
            raise StoreError(
                f"Cell {row['key']} is stored with {name} = {stored[name]!r} and was asked for with {value!r}. "
                "A key stands for one cell: every column that changes a result belongs into its hash."
            )


def check_published(connection: Connection, key: str | None) -> None:
    """LookupError unless `key` is None or a key of `published`."""
    keys = connection.execute(select(PublishedRow.key)).scalars().all() if key is not None else []
    if key is not None and key not in keys:
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"Unknown published number {key!r}.{guess} They are the keys of bench/published.csv.")


def running(connection: Connection, run_id: int) -> RowMapping:
    """The row of a run that is running; StoreError if it is not."""
    run = connection.execute(select(RunRow).where(RunRow.id == run_id)).mappings().one_or_none()
    if run is None or run["status"] != "running":
        state = "not in the database" if run is None else run["status"]
        raise StoreError(f"Expected a running run, got run {run_id}, which is {state}. Start one with start_run.")
    return run


def check_new(connection: Connection, run_id: int, number: int, indices: Sequence[int]) -> None:
    """StoreError where a batch or one of its images is stored already."""
    stored = select(BatchRow.number).where(BatchRow.run_id == run_id, BatchRow.number == number)
    if connection.execute(stored).first():
        raise StoreError(f"Batch {number} of run {run_id} is stored already; it was not changed.")
    seen = set(connection.execute(select(ImageRow.image_index).where(ImageRow.run_id == run_id)).scalars())
    for index in indices:
        if index in seen:
            raise StoreError(f"Image {index} would be in run {run_id} twice; batch {number} was not stored.")
        seen.add(index)


def check_complete(connection: Connection, run: RowMapping) -> None:
    """StoreError unless a run holds as many images as its cell asks for."""
    stored = connection.execute(select(func.count()).where(ImageRow.run_id == run["id"])).scalar_one()
    wanted = connection.execute(select(CellRow.num_images).where(CellRow.key == run["cell_key"])).scalar_one()
    if stored != wanted:
        raise StoreError(f"Expected {wanted} images in run {run['id']} before it is done, found {stored}.")


def no_cell(key: str, found: Sequence[str], keys: Sequence[str]) -> LookupError:
    """The error for a key that fits no cell, or several (`found`)."""
    if found:
        return LookupError(f"Cell {key!r} is not unique: {', '.join(found[:8])}. Give more digits.")
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
    guess = f" Did you mean {near[0]!r}?" if near else " No cell is stored yet."
    return LookupError(f"Unknown cell {key!r}.{guess} Column `cell_key` of the view `results` lists them.")
