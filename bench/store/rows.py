"""Records and keyword arguments to rows and back, and the checks that stand before a write."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from bench.records import ROUNDED, VOTES, BatchRecord, ImageRecord
from bench.store.database import StoreError, to_json, to_plain
from bench.store.packing import pack, pack_rounded, pack_votes, unpack, unpack_row
from bench.store.schema import Base, BatchRow, CellRow, ImageRow, PublishedRow, RunRow

RowValues = dict[str, Any]
"""Column -> value."""
REFRESHED = ("grid", "published_key", "batch_size")  # columns of a cell that its key does not cover
COUNTS = ("draws", "clean_correct", "robust_correct", "null_correct")
OUTCOMES = ("distance", "broken_by", "first_success", "null_first_success")


def make_image_row(image: ImageRecord, *, run_id: int, batch: int, position: int) -> RowValues:
    """Make a row of `images` from a record; its numbers become plain Python ones."""
    votes: RowValues = {name: pack_votes(getattr(image, name)) for name in VOTES}
    votes |= {ROUNDED: None, "rounded_correct": None}
    if image.rounded_votes is not None:
        votes[ROUNDED] = pack_rounded(image.rounded_votes, image.robust_votes)
        votes["rounded_correct"] = int(image.rounded_correct or 0)
    counts = {name: int(getattr(image, name)) for name in COUNTS}
    outcomes = {name: to_plain(getattr(image, name)) for name in OUTCOMES}
    place = {"run_id": run_id, "batch": batch, "position": position, "image_index": int(image.index)}
    return {**place, "label": int(image.label), **votes, **counts, **outcomes}


def read_image_record(row: Mapping[str, Any]) -> ImageRecord:
    """Undo `make_image_row`."""
    outcomes = {name: row[name] for name in OUTCOMES}
    votes: RowValues = unpack_row(row)
    return ImageRecord(index=row["image_index"], label=row["label"], **votes, **outcomes)


def make_batch_row(batch: BatchRecord, run_id: int, stored_at: datetime | None = None) -> RowValues:
    """Make a row of `batches` from a record; its curve is packed."""
    evaluations = int(batch.network_evaluations)
    return {
        "run_id": run_id,
        "number": int(batch.number),
        "seconds": float(batch.seconds),
        "network_evaluations": evaluations,
        "curve": pack([{name: to_plain(value) for name, value in step.items()} for step in batch.curve]),
        "device": batch.device,
        "evidence": batch.evidence,
        "evidence_sha256": batch.evidence_sha256,
        "peak_bytes": batch.peak_bytes,
        "device_bytes": batch.device_bytes,
        "operations": batch.operations,
        "stored_at": stored_at,
    }


def read_batch_record(row: Mapping[str, Any]) -> BatchRecord:
    """Undo `make_batch_row`."""
    values = {name: value for name, value in row.items() if name not in ("run_id", "stored_at")}
    return BatchRecord(**{**values, "curve": unpack(row["curve"])})


def check_columns(values: Mapping[str, Any], table: type[Base], refused: Sequence[str] = ()) -> RowValues:
    """Check that values have columns to go to, and make plain Python ones of them.

    Args:
        values: column -> value.
        table: the table that they are meant for.
        refused: columns that only the store itself may set.

    Raises:
        StoreError: a name is no column of `table`, or is refused.
    """
    known = [name for name in table.__table__.columns.keys() if name not in refused]
    for name in values:
        if name not in known:
            raise StoreError(f"Table {table.__tablename__} takes no {name!r} here. It takes: {', '.join(known)}.")
    return {name: to_plain(value) for name, value in values.items()}


def is_equal(stored: Any, asked: Any) -> bool:
    """Whether two values are equal once both have been through JSON, as a tuple and a list are."""
    return to_json(stored) == to_json(asked)


def check_same_cell(stored: RowMapping, row: RowValues) -> None:
    """StoreError unless a cell that is stored is the one that was asked for."""
    for name, value in row.items():
        if name not in REFRESHED and not is_equal(stored[name], value):
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


def require_running(connection: Connection, run_id: int, *also: str) -> RowMapping:
    """Find the row of a run that is running, or in a state of `also`; StoreError if it is not."""
    query = select(RunRow).where(RunRow.id == run_id).with_for_update()
    run = connection.execute(query).mappings().one_or_none()
    if run is None or run["status"] not in ("running", *also):
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


def find_cell_key(connection: Connection, beginning: str) -> str:
    """The key of the one cell whose key begins so; LookupError if no cell's key does, or several do."""
    keys = connection.execute(select(CellRow.key).order_by(CellRow.key)).scalars().all()
    found = [key for key in keys if beginning and key.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise LookupError(f"Cell {beginning!r} is not unique: {', '.join(found[:8])}. Give more digits.")
    near = difflib.get_close_matches(beginning, keys, n=1, cutoff=0.0)
    guess = f" Did you mean {near[0]!r}?" if near else " No cell is stored yet."
    raise LookupError(f"Unknown cell {beginning!r}.{guess} Column `cell_key` of the view `results` lists them.")
