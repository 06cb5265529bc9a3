"""`Store`: the result database, written and read."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from bench.records import BatchRecord, ImageRecord
from bench.store.migrations import take_turns
from bench.store.reading import ReadableStore
from bench.store.rows import (
    REFRESHED,
    RowValues,
    check_columns,
    check_complete,
    check_new,
    check_published,
    check_same_cell,
    is_equal,
    make_batch_row,
    make_image_row,
    require_running,
)
from bench.store.schema import BatchRow, CellRow, ImageRow, RunRow

KEPT_BY_STORE = ("id", "cell_key", "status", "host", "pid", "started_at", "finished_at")
ERROR = ("error_class", "error_message", "remedy", "error_traceback")


class Store(ReadableStore):
    """An open result database: cells, their runs and per-image outcomes, written and read.

    See `OpenDatabase` for its arguments and attributes, `ReadableStore` for what can be read.
    """

    def add_cell(self, cell: Mapping[str, Any]) -> None:
        """Store a cell; one that is stored already takes the new `grid`, `published_key` and `batch_size`.

        Args:
            cell: a value for each column of `cells` but `created_at`.

        Raises:
            StoreError: the cell is stored with another value in any other column, or a column does not exist.
            LookupError: `published_key` is no key of `published`.
        """
        row = check_columns(cell, CellRow, refused=("created_at",))
        with self._writing() as connection:
            take_turns(connection)
            check_published(connection, row.get("published_key"))
            stored = connection.execute(select(CellRow).where(CellRow.key == row["key"])).mappings().one_or_none()
            if stored is None:
                connection.execute(insert(CellRow).values(**row, created_at=_now()))
                return
            check_same_cell(stored, row)
            fresh = {name: row[name] for name in REFRESHED if name in row}
            if any(stored[name] != value for name, value in fresh.items()):
                connection.execute(update(CellRow).where(CellRow.key == row["key"]).values(**fresh))

    def check_published(self, keys: Iterable[str | None]) -> None:
        """Check that each key is None or a key of `published`; LookupError where one is not."""
        with self._reading() as connection:
            for key in dict.fromkeys(keys):
                check_published(connection, key)

    def start_run(self, cell_key: str, **provenance: Any) -> int:
        """Start a new run of a cell, by this process.

        Args:
            cell_key: the cell's whole key.
            provenance: columns of `runs`, such as `commit_hash`, `dirty`, `packages`, `device`, `precision`, `weights`,
                `licences`, `notes`, and `batch_size` where it is not the cell's.

        Returns:
            The number of the run.
        """
        of_cell = select(CellRow.batch_size).where(CellRow.key == cell_key).scalar_subquery()
        row = {"batch_size": of_cell, **check_columns(provenance, RunRow, refused=KEPT_BY_STORE)}
        with self._writing() as connection:
            started = insert(RunRow).values(**row, **_claim(), cell_key=cell_key, started_at=_now())
            key = connection.execute(started).inserted_primary_key
            assert key is not None
            return key[0]

    def resumable_run(self, cell_key: str, same: Mapping[str, Any]) -> tuple[int, set[int]] | None:
        """Take over the newest unfinished run of a cell, if there is one to continue.

        A run that ended by an error or whose process is gone qualifies, if no later run has finished.

        Args:
            cell_key: the cell's whole key.
            same: columns of `runs` that have to be equal (commit, weights, batch size ...).

        Returns:
            The run's number and the numbers of its finished batches; None where there is no such run.
        """
        wanted = check_columns(same, RunRow)
        with self._writing() as connection:
            finished = select(func.max(RunRow.id)).where(RunRow.cell_key == cell_key, RunRow.status == "done")
            last = connection.execute(finished).scalar() or 0
            query = select(RunRow).where(RunRow.cell_key == cell_key, RunRow.id > last).order_by(RunRow.id.desc())
            for run in connection.execute(query.with_for_update()).mappings():
                held = run["status"] == "running" and self.is_alive(run["host"], run["pid"])
                if not held and all(is_equal(run[name], value) for name, value in wanted.items()):
                    return self._take_over(connection, run)
        return None

    def _take_over(self, connection: Connection, run: RowMapping) -> tuple[int, set[int]]:
        earlier = [f"resumed after {run['error_class']}: {run['error_message']}"] if run["error_class"] else []
        change = {**_claim(), **dict.fromkeys(ERROR), "finished_at": None}
        if earlier:
            change["notes"] = [*(run["notes"] or []), *earlier]
        connection.execute(update(RunRow).where(RunRow.id == run["id"]).values(**change))
        numbers = connection.execute(select(BatchRow.number).where(BatchRow.run_id == run["id"]))
        return run["id"], set(numbers.scalars())

    def pause_run(self, run_id: int) -> None:
        """Leave a run unfinished, so that any process on any host may continue it."""
        self._change(run_id, {"host": None, "pid": None})

    def save_batch(
        self, run_id: int, batch: BatchRecord, images: Sequence[ImageRecord], notes: Sequence[str] = ()
    ) -> None:
        """Store a finished batch and its images in one transaction.

        Args:
            run_id: the run, which has to be running.
            batch: its number, cost and curve.
            images: its images, in the order in which they were judged.
            notes: sentences for the run's `notes`; each is kept once.

        Raises:
            StoreError: the batch or one of its images is stored already, or the run is not running.
        """
        numbered = enumerate(images)
        rows = [make_image_row(image, run_id=run_id, batch=batch.number, position=place) for place, image in numbered]
        with self._writing() as connection:
            run = require_running(connection, run_id)
            check_new(connection, run_id, batch.number, [row["image_index"] for row in rows])
            connection.execute(insert(BatchRow).values(**make_batch_row(batch, run_id)))
            if rows:
                connection.execute(insert(ImageRow), rows)
            if notes:
                kept = list(dict.fromkeys([*(run["notes"] or []), *notes]))
                connection.execute(update(RunRow).where(RunRow.id == run_id).values(notes=kept))

    def finish_run(self, run_id: int, **summary: Any) -> None:
        """Mark a run as done.

        Args:
            run_id: the run, which has to be running.
            summary: columns of `runs`, such as accuracies in percent, gates and verdict. Notes are added to those that
                it has; `seconds` and `network_evaluations` are the sums over its batches unless given.

        Raises:
            StoreError: images of the cell are missing, or the run is not running.
        """
        row = check_columns(summary, RunRow, refused=(*KEPT_BY_STORE, *ERROR))
        with self._writing() as connection:
            run = require_running(connection, run_id)
            check_complete(connection, run)
            sums = select(func.sum(BatchRow.seconds), func.sum(BatchRow.network_evaluations))
            seconds, evaluations = connection.execute(sums.where(BatchRow.run_id == run_id)).one()
            cost = {"seconds": seconds, "network_evaluations": None if evaluations is None else int(evaluations)}
            notes = [*(run["notes"] or []), *(row.pop("notes", None) or [])] or None
            values = {**cost, **row, "notes": notes, "status": "done", "finished_at": _now()}
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    def fail_run(self, run_id: int, error: BaseException, remedy: str | None = None) -> None:
        """Mark a run as failed.

        Args:
            run_id: the run, which has to be running.
            error: what ended it.
            remedy: what the user can do; None takes the error's own attribute `remedy`.
        """
        told = {
            "error_class": type(error).__name__,
            "error_message": str(error),
            "remedy": remedy or getattr(error, "remedy", None),
            "error_traceback": "".join(traceback.format_exception(error)),
        }
        self._change(run_id, {**told, "status": "failed", "finished_at": _now()})

    def _change(self, run_id: int, values: RowValues) -> None:
        with self._writing() as connection:
            require_running(connection, run_id)
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))


def make_database(path: str | os.PathLike[str]) -> None:
    """Make or refresh a database: its schema and its table `published` become today's; no result changes."""
    with Store(path) as store:
        store.refresh_published()


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def _claim() -> RowValues:
    return {"status": "running", "host": socket.gethostname(), "pid": os.getpid()}
