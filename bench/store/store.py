"""`Store`: cells, their runs and per-image outcomes, written and read."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, func, insert, select, text, update

from bench.records import BatchRecord, ImageRecord
from bench.store.database import (
    StoreError,
    check_file,
    connect,
    default_url,
    in_sentences,
    parse_url,
    set_journal,
    shown,
    sqlite_path,
)
from bench.store.migrations import MIGRATIONS, SchemaError, migrate, take_turns, version
from bench.store.published import fill_published
from bench.store.rows import (
    REFRESHED,
    batch_record,
    batch_row,
    check_complete,
    check_new,
    check_published,
    check_same_cell,
    checked,
    equal,
    image_record,
    image_row,
    no_cell,
    running,
)
from bench.store.schema import BatchRow, CellRow, ImageRow, PublishedRow, RunRow, results_select

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]
KEPT_BY_STORE = ("id", "cell_key", "status", "host", "pid", "started_at", "finished_at")
ERROR = ("error_class", "error_message", "remedy", "error_traceback")


def is_alive(host: str | None, pid: int | None) -> bool:
    """Whether another process still works on a run. On another host nobody can tell: True, its run is left alone.

    This very process asks before it works, so its own number means an earlier process that had the same one.
    """
    if host is None or pid is None or (host == socket.gethostname() and pid == os.getpid()):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Store:
    """An open result database: a SQLite file (a bare path) or any SQLAlchemy URL.

    A database that does not exist is created, an older one migrated, an empty table `published` filled. With
    `readonly`, nothing at all is written. busy_seconds: how long SQLite waits for another writer. StoreError: it is no
    database of ours, a newer version's, read-only, or locked; the file is then as it was. Use it in a `with` statement,
    or `close` it.
    """

    def __init__(
        self,
        url_or_path: str | os.PathLike[str] | None = None,
        *,
        readonly: bool = False,
        busy_seconds: float = 5.0,
        alive: Callable[[str | None, int | None], bool] = is_alive,
    ) -> None:
        self.url = parse_url(default_url() if url_or_path is None else url_or_path)
        self.where, self.readonly, self._busy, self.alive = shown(self.url), readonly, busy_seconds, alive
        self._path = sqlite_path(self.url)
        if self._path is not None:
            check_file(self._path, readonly=readonly)
        self._reader = connect(self.url, readonly=True, busy_seconds=busy_seconds)
        self._writer = connect(self.url, readonly=False, busy_seconds=busy_seconds)
        self._bring_up_to_date()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold SQLite's journal into the file, unless other programs are using it."""
        if self._path is not None and not self.readonly:
            set_journal(self._path, "delete", busy_seconds=0.0)

    # Cells and runs

    def add_cell(self, cell: Mapping[str, Any]) -> None:
        """Store a cell: a value for each column of `cells` but `created_at`.

        One that is there takes the new `grid`, `published_key`, `batch_size`; StoreError where others differ.
        """
        row = checked(cell, CellRow, refused=("created_at",))
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
        """LookupError where one of `keys` is neither None nor a key of `published`."""
        with self._reading() as connection:
            for key in dict.fromkeys(keys):
                check_published(connection, key)

    def start_run(self, cell_key: str, **provenance: Any) -> int:
        """A new run of a cell, by this process: its number.

        provenance: columns of `runs`, such as `commit_hash`, `dirty`, `packages`, `device`, `precision`, `weights`,
        `licences`, `notes`, and `batch_size` where it is not the cell's.
        """
        of_cell = select(CellRow.batch_size).where(CellRow.key == cell_key).scalar_subquery()
        row = {"batch_size": of_cell, **checked(provenance, RunRow, refused=KEPT_BY_STORE)}
        with self._writing() as connection:
            started = insert(RunRow).values(**row, **_ours(), cell_key=cell_key, started_at=_now())
            key = connection.execute(started).inserted_primary_key
            assert key is not None
            return key[0]

    def resumable_run(self, cell_key: str, same: Mapping[str, Any]) -> tuple[int, set[int]] | None:
        """Take over the newest unfinished run of a cell: its number and its finished batches, or None.

        Runs that ended by error or whose process is gone qualify, if the columns in `same` (commit, weights, batch
        size ...) are equal and no later run has finished.
        """
        wanted = checked(same, RunRow)
        with self._writing() as connection:
            finished = select(func.max(RunRow.id)).where(RunRow.cell_key == cell_key, RunRow.status == "done")
            last = connection.execute(finished).scalar() or 0
            query = select(RunRow).where(RunRow.cell_key == cell_key, RunRow.id > last).order_by(RunRow.id.desc())
            for run in connection.execute(query.with_for_update()).mappings():
                held = run["status"] == "running" and self.alive(run["host"], run["pid"])
                if not held and all(equal(run[name], value) for name, value in wanted.items()):
                    return self._take_over(connection, run)
        return None

    def _take_over(self, connection: Connection, run: RowMapping) -> tuple[int, set[int]]:
        earlier = [f"resumed after {run['error_class']}: {run['error_message']}"] if run["error_class"] else []
        change = {**_ours(), **dict.fromkeys(ERROR), "finished_at": None}
        if earlier:
            change["notes"] = [*(run["notes"] or []), *earlier]
        connection.execute(update(RunRow).where(RunRow.id == run["id"]).values(**change))
        numbers = connection.execute(select(BatchRow.number).where(BatchRow.run_id == run["id"]))
        return run["id"], set(numbers.scalars())

    def pause_run(self, run_id: int) -> None:
        """Leave a run unfinished, for any process on any host to resume."""
        self._change(run_id, {"host": None, "pid": None})

    def save_batch(
        self, run_id: int, batch: BatchRecord, images: Sequence[ImageRecord], notes: Sequence[str] = ()
    ) -> None:
        """Store a finished batch and its images in one transaction; StoreError if any of it is stored already.

        notes: sentences for the run's `notes`, each of which it keeps once.
        """
        numbered = enumerate(images)
        rows = [image_row(image, run_id=run_id, batch=batch.number, position=place) for place, image in numbered]
        with self._writing() as connection:
            run = running(connection, run_id)
            check_new(connection, run_id, batch.number, [row["image_index"] for row in rows])
            connection.execute(insert(BatchRow).values(**batch_row(batch, run_id)))
            if rows:
                connection.execute(insert(ImageRow), rows)
            if notes:
                kept = list(dict.fromkeys([*(run["notes"] or []), *notes]))
                connection.execute(update(RunRow).where(RunRow.id == run_id).values(notes=kept))

    def finish_run(self, run_id: int, **summary: Any) -> None:
        """Mark a run as done, with its accuracies, gates and verdict (columns of `runs`).

        Notes are added to those it has; `seconds` and `network_evaluations` are the sums over its batches unless given.
        StoreError: images are missing.
        """
        row = checked(summary, RunRow, refused=(*KEPT_BY_STORE, *ERROR))
        with self._writing() as connection:
            run = running(connection, run_id)
            check_complete(connection, run)
            sums = select(func.sum(BatchRow.seconds), func.sum(BatchRow.network_evaluations))
            seconds, evaluations = connection.execute(sums.where(BatchRow.run_id == run_id)).one()
            cost = {"seconds": seconds, "network_evaluations": None if evaluations is None else int(evaluations)}
            notes = [*(run["notes"] or []), *(row.pop("notes", None) or [])] or None
            values = {**cost, **row, "notes": notes, "status": "done", "finished_at": _now()}
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    def fail_run(self, run_id: int, error: BaseException, remedy: str | None = None) -> None:
        """Mark a run as failed. remedy: what the user can do, by default the error's own attribute `remedy`."""
        told = {
            "error_class": type(error).__name__,
            "error_message": str(error),
            "remedy": remedy or getattr(error, "remedy", None),
            "error_traceback": "".join(traceback.format_exception(error)),
        }
        self._change(run_id, {**told, "status": "failed", "finished_at": _now()})

    # Reading

    def cell(self, key: str) -> Row:
        """The cell whose key starts with `key`; LookupError if none or several do."""
        with self._reading() as connection:
            keys = connection.execute(select(CellRow.key).order_by(CellRow.key)).scalars().all()
            found = [name for name in keys if key and name.startswith(key)]
            if len(found) != 1:
                raise no_cell(key, found, keys)
            return dict(connection.execute(select(CellRow).where(CellRow.key == found[0])).mappings().one())

    def runs_of(self, cell_key: str) -> list[Row]:
        """The runs of a cell, newest first, with all their columns."""
        return self._rows(select(RunRow).where(RunRow.cell_key == cell_key).order_by(RunRow.id.desc()))

    def latest_done(self, cell_key: str) -> Row | None:
        """The newest successful run of a cell: the one that `results` shows."""
        return next((run for run in self.runs_of(cell_key) if run["status"] == "done"), None)

    def batches(self, run_id: int) -> list[BatchRecord]:
        """The finished batches of a run, in order."""
        rows = self._rows(select(BatchRow).where(BatchRow.run_id == run_id).order_by(BatchRow.number))
        return [batch_record(row) for row in rows]

    def images(self, run_id: int) -> list[ImageRecord]:
        """The images of a run, in the order in which they were judged."""
        query = select(ImageRow).where(ImageRow.run_id == run_id).order_by(ImageRow.batch, ImageRow.position)
        return [image_record(row) for row in self._rows(query)]

    def results(self) -> list[Row]:
        """The view `results`: one row a cell, its newest successful run, accuracies in percent."""
        return self._rows(results_select().order_by(CellRow.dataset, CellRow.defense, CellRow.attack, CellRow.key))

    def frame(self) -> pandas.DataFrame:
        """The view `results` as a data frame."""
        import pandas

        with self._reading() as connection:
            return pandas.read_sql(results_select(), connection)

    def published(self) -> list[Row]:
        """The literature: rows of the table `published`."""
        return self._rows(select(PublishedRow).order_by(PublishedRow.key))

    def query(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one SQL query, on a connection that can only read; StoreError if it would write."""
        if self._writer.dialect.name not in ("sqlite", "postgresql"):
            raise StoreError(f"Read-only queries work on SQLite and PostgreSQL, not on {self._writer.dialect.name}.")
        with self._reading() as connection:
            try:  # a cursor of PostgreSQL's takes one query, and no other statement; colons are no parameters here
                answer = connection.execution_options(stream_results=True).execute(text(sql.replace(":", r"\:")))
            except Warning as error:  # Python 3.11's sqlite3, on several statements
                raise StoreError(f"{self.where}: {error}") from error
            if not answer.returns_rows:
                raise StoreError("Expected a query that returns rows, such as SELECT * FROM results.")
            return list(answer.keys()), [tuple(row) for row in answer]

    # Machinery

    def _bring_up_to_date(self) -> None:
        found = self._version()
        if self.readonly and found < len(MIGRATIONS):
            raise StoreError(
                f"{self.where} has schema number {found}, this version needs {len(MIGRATIONS)}. Open it once for "
                f"writing (`bench run`, or python -m bench.store {self.where}); that keeps every result."
            )
        if self.readonly:
            return
        if self._path is not None:
            set_journal(self._path, "wal", busy_seconds=self._busy)
        with in_sentences(self.url, self._busy):
            if found < len(MIGRATIONS):
                migrate(self._writer)
        filled = select(PublishedRow.key).where(PublishedRow.attack_name.is_not(None))  # none: new, or just migrated
        if not self._rows(filled.limit(1)):
            self.refresh_published()

    def _version(self) -> int:
        if self._path is not None and (not self._path.exists() or not self._path.stat().st_size):
            return 0
        with self._reading() as connection:
            try:
                return version(connection)
            except SchemaError as error:
                raise StoreError(f"{self.where} {error}") from error

    def refresh_published(self) -> None:
        """Bring the table `published` up to bench/published.csv; deletes nothing."""
        with self._writing() as connection:
            take_turns(connection)
            fill_published(connection, refresh=True)

    def _change(self, run_id: int, values: Row) -> None:
        with self._writing() as connection:
            running(connection, run_id)
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    def _rows(self, query: Any) -> list[Row]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with in_sentences(self.url, self._busy), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self.readonly:
            raise StoreError(f"{self.where} was opened for reading only.")
        with in_sentences(self.url, self._busy), self._writer.begin() as connection:
            yield connection


def make_database(path: str | os.PathLike[str]) -> None:
    """Make or refresh the database that ships with the repository: table `published` up to date, one file at rest."""
    with Store(path) as store:
        store.refresh_published()


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def _ours() -> Row:
    return {"status": "running", "host": socket.gethostname(), "pid": os.getpid()}
