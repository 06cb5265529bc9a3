"""`Store`: the result database, written and read."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from bench.printable import printable
from bench.records import BatchRecord, ImageRecord
from bench.store.claims import ERROR, KEPT_BY_STORE, Claim, end_claim, insert_run, now_in_seconds
from bench.store.migrations import take_turns
from bench.store.patience import patient
from bench.store.progress import WatchedStore
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
from bench.store.schema import BatchRow, CellRow, GridRow, ImageRow, RunRow


class Store(WatchedStore):
    """An open result database: cells, their runs and per-image outcomes, written and read.

    See `OpenDatabase` for its arguments and attributes, `ReadableStore` for what can be read, `ClaimingStore` for how
    processes share a run.
    """

    @patient
    def add_cell(self, cell: Mapping[str, Any]) -> None:
        """Store a cell; one that is stored already takes the new `grid`, `published_key` and `batch_size`.

        Args:
            cell: a value for each column of `cells` but `created_at`.

        Raises:
            StoreError: the cell is stored with another value in any other column, or a column does not exist.
            LookupError: `published_key` is no key of `published`.
        """
        self._check_writable()
        row = check_columns(cell, CellRow, refused=("created_at",))
        with self._reading() as connection:  # most often it is there: a thousand workers need not wait in turn
            stored = connection.execute(select(CellRow).where(CellRow.key == row["key"])).mappings().one_or_none()
            if stored is not None and all(is_equal(stored[name], value) for name, value in row.items()):
                return
        with self._writing() as connection:
            take_turns(connection)
            check_published(connection, row.get("published_key"))
            stored = connection.execute(select(CellRow).where(CellRow.key == row["key"])).mappings().one_or_none()
            if stored is None:
                connection.execute(insert(CellRow).values(**row, created_at=now_in_seconds()))
                return
            check_same_cell(stored, row)
            fresh = {name: row[name] for name in REFRESHED if name in row}
            if any(stored[name] != value for name, value in fresh.items()):
                connection.execute(update(CellRow).where(CellRow.key == row["key"]).values(**fresh))

    @patient
    def save_grid(self, name: str, *, source: str, digest: str, described: Mapping[str, Any] | None) -> None:
        """Store what the tables of a grid look like, and that it runs now.

        Args:
            name: its name, or its file's stem.
            source: its name, or its file's path.
            digest: sha256 of what it was described from.
            described: plain data; None where there are none.
        """
        values = {"source": source, "digest": digest, "described": described, "ran_at": now_in_seconds()}
        with self._writing() as connection:
            take_turns(connection)
            changed = connection.execute(update(GridRow).where(GridRow.name == name).values(**values))
            if not changed.rowcount:
                connection.execute(insert(GridRow).values(name=name, **values))

    @patient
    def check_published(self, keys: Iterable[str | None]) -> None:
        """Check that each key is None or a key of `published`; LookupError where one is not."""
        with self._reading() as connection:
            for key in dict.fromkeys(keys):
                check_published(connection, key)

    @patient
    def start_run(self, cell_key: str, **provenance: Any) -> int:
        """Start a new run of a cell, by this process.

        Args:
            cell_key: the cell's whole key.
            provenance: columns of `runs`, such as `commit_hash`, `dirty`, `packages`, `device`, `precision`, `weights`,
                `licences`, `notes`, and `batch_size` where it is not the cell's.

        Returns:
            The number of the run.
        """
        with self._writing() as connection:
            return insert_run(connection, cell_key, provenance)

    def pause_run(self, run_id: int) -> None:
        """Leave a run unfinished, so that any process on any host may continue it."""
        self._change(run_id, {"host": None, "pid": None})

    @patient
    def save_batch(
        self,
        run_id: int,
        batch: BatchRecord,
        images: Sequence[ImageRecord],
        notes: Sequence[str] = (),
        claim: Claim | None = None,
    ) -> None:
        """Store a finished batch and its images, and end its claim, in one transaction.

        Args:
            run_id: the run, which has to be running; with a claim it may have failed elsewhere.
            batch: its number, cost and curve.
            images: its images, in the order in which they were judged.
            notes: sentences for the run's `notes`; each is kept once.
            claim: the claim under which it was measured.

        Raises:
            LostClaim: another process took the claim over.
            StoreError: the batch or one of its images is stored already, or the run is not running.
        """
        numbered = enumerate(images)
        rows = [make_image_row(image, run_id=run_id, batch=batch.number, position=place) for place, image in numbered]
        with self._writing() as connection:
            if claim is not None:
                end_claim(connection, claim)
            run = require_running(connection, run_id, *(("failed",) if claim is not None else ()))
            check_new(connection, run_id, batch.number, [row["image_index"] for row in rows])
            connection.execute(insert(BatchRow).values(**make_batch_row(batch, run_id, now_in_seconds())))
            if rows:
                connection.execute(insert(ImageRow), rows)
            if notes:
                kept = list(dict.fromkeys([*(run["notes"] or []), *notes]))
                connection.execute(update(RunRow).where(RunRow.id == run_id).values(notes=kept))

    @patient
    def save_gates(self, claim: Claim, gates: Sequence[Mapping[str, Any]]) -> None:
        """Store the validity gates of a run and end their claim.

        Raises:
            LostClaim: another process took the claim over.
        """
        with self._writing() as connection:
            end_claim(connection, claim)
            connection.execute(update(RunRow).where(RunRow.id == claim.run_id).values(gates=list(gates)))

    @patient
    def finish_run(self, run_id: int, claim: Claim | None = None, **summary: Any) -> None:
        """Mark a run as done.

        Args:
            run_id: the run, which has to be running.
            claim: the claim under which it was summarised.
            summary: columns of `runs`, such as accuracies in percent, gates and verdict. Notes are added to those that
                it has; `seconds` and `network_evaluations` are the sums over its batches unless given.

        Raises:
            LostClaim: another process took the claim over.
            StoreError: images of the cell are missing, or the run is not running.
        """
        row = check_columns(summary, RunRow, refused=(*KEPT_BY_STORE, *ERROR))
        with self._writing() as connection:
            if claim is not None:
                end_claim(connection, claim)
            run = require_running(connection, run_id)
            check_complete(connection, run)
            sums = select(func.sum(BatchRow.seconds), func.sum(BatchRow.network_evaluations))
            seconds, evaluations = connection.execute(sums.where(BatchRow.run_id == run_id)).one()
            cost: RowValues = {
                "seconds": seconds,
                "network_evaluations": None if evaluations is None else int(evaluations),
            }
            notes = [*(run["notes"] or []), *(row.pop("notes", None) or [])] or None
            devices = set(connection.execute(select(BatchRow.device).where(BatchRow.run_id == run_id)).scalars())
            told = " + ".join(sorted({name or run["device"] or "unknown" for name in devices})) or run["device"]
            cost |= {"device": told} if devices - {None} else {}
            values = {**cost, **row, "notes": notes, "status": "done", "finished_at": now_in_seconds()}
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    @patient
    def fail_run(
        self, run_id: int, error: BaseException, remedy: str | None = None, claim: Claim | None = None
    ) -> None:
        """Mark a run as failed.

        Args:
            run_id: the run, which has to be running; with a claim it may have failed elsewhere.
            error: what ended it.
            remedy: what the user can do; None takes the error's own attribute `remedy`.
            claim: the claim under which it failed, which ends.

        Raises:
            LostClaim: another process took the claim over.
        """
        with self._writing() as connection:
            if claim is not None:
                end_claim(connection, claim)
            run = require_running(connection, run_id, *(("failed",) if claim is not None else ()))
            self._fail(connection, run, error, remedy)

    @patient
    def fail_cell(self, cell_key: str, error: BaseException, provenance: Mapping[str, Any], *, after: int = 0) -> int:
        """Store that a cell could not even begin, such as without its weights.

        Args:
            cell_key: the cell's whole key.
            error: what ended it.
            provenance: columns of `runs`, as far as they are known.
            after: runs up to this number are left alone.

        Returns:
            The number of the run that says so: a new one, or the newest where that failed too and has no batch.
        """
        with self._writing() as connection:
            take_turns(connection)
            query = select(RunRow).where(RunRow.cell_key == cell_key, RunRow.id > after).order_by(RunRow.id.desc())
            run = connection.execute(query.limit(1)).mappings().one_or_none()
            if run is None or run["status"] != "failed" or _has_batches(connection, run["id"]):
                number = insert_run(connection, cell_key, provenance)
                run = connection.execute(select(RunRow).where(RunRow.id == number)).mappings().one()
            self._fail(connection, run, error, None)
            return run["id"]

    def _fail(self, connection: Connection, run: RowMapping, error: BaseException, remedy: str | None) -> None:
        told = {
            "error_class": type(error).__name__,
            "error_message": printable(_text_of(error)),
            "remedy": remedy or getattr(error, "remedy", None),
            "error_traceback": printable(_traceback_of(error)),
            "failures": (run["failures"] or 0) + 1,
        }
        values = {**told, "status": "failed", "finished_at": now_in_seconds()}
        connection.execute(update(RunRow).where(RunRow.id == run["id"]).values(**values))

    def _change(self, run_id: int, values: RowValues) -> None:
        with self._writing() as connection:
            require_running(connection, run_id)
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))


def make_database(path: str | os.PathLike[str]) -> None:
    """Make or refresh a database: its schema and its table `published` become today's; no result changes."""
    with Store(path) as store:
        store.refresh_published()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # an error of a cell's own code
        return f"an error that cannot be written ({type(second).__name__})"


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as second:
        return f"a traceback that cannot be written ({type(second).__name__})"


def _has_batches(connection: Connection, run_id: int) -> bool:
    return connection.execute(select(BatchRow.number).where(BatchRow.run_id == run_id)).first() is not None
