"""An open result database: its connections, brought up to this version's schema when it is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from sqlalchemy import Connection, select

from bench.store.database import (
    StoreError,
    check_file,
    connect,
    default_url,
    parse_url,
    render_url,
    set_journal,
    sqlite_path,
    translate_errors,
)
from bench.store.migrations import MIGRATIONS, SchemaError, migrate, read_version, take_turns
from bench.store.patience import patient
from bench.store.published import fill_published
from bench.store.rows import RowValues
from bench.store.schema import PublishedRow


class OpenDatabase:
    """An open result database: a SQLite file (a bare path) or any SQLAlchemy URL.

    A database that does not exist is created, an older one migrated, an empty table `published` filled. Use it in a
    `with` statement, or `close` it.

    Attributes:
        url: its address.
        where: the address in words, without a password.
        readonly: whether nothing at all is written.
        patience: seconds for which it is asked again while it is locked or away.
    """

    def __init__(
        self,
        url_or_path: str | os.PathLike[str] | None = None,
        *,
        readonly: bool = False,
        busy_seconds: float = 5.0,
        patience: float = 0.0,
    ) -> None:
        """Open a database, creating or migrating it first where it may be written.

        Args:
            url_or_path: the path of a SQLite file or a URL; None is `default_url()`.
            readonly: write nothing; an older schema is then an error.
            busy_seconds: how long SQLite waits for another writer, seconds.
            patience: seconds for which a database that is locked or away is asked again, with growing waits.

        Raises:
            StoreError: it is another program's database, a newer version's, read-only, or locked. The file is then as
                it was.
        """
        self.url = parse_url(default_url() if url_or_path is None else url_or_path)
        self.where, self.readonly, self._busy, self.patience = render_url(self.url), readonly, busy_seconds, patience
        self._path = sqlite_path(self.url)
        if self._path is not None:
            check_file(self._path, readonly=readonly)
        self._reader = connect(self.url, readonly=True, busy_seconds=busy_seconds)
        self._writer = connect(self.url, readonly=False, busy_seconds=busy_seconds)
        self._bring_up_to_date()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold SQLite's journal into the file, unless other programs are using it."""
        if self._path is not None and not self.readonly:
            set_journal(self._path, "delete", busy_seconds=0.0)

    @patient
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
        with translate_errors(self.url, self._busy):
            if found < len(MIGRATIONS):
                migrate(self._writer)
        newest = PublishedRow.attacker_gradient  # empty in all rows: a new database, or one that was just migrated
        filled = select(PublishedRow.key).where(newest.is_not(None))
        if not self._rows(filled.limit(1)):
            self.refresh_published()

    def _version(self) -> int:
        if self._path is not None and (not self._path.exists() or not self._path.stat().st_size):
            return 0
        with self._reading() as connection:
            try:
                return read_version(connection)
            except SchemaError as error:
                raise StoreError(f"{self.where} {error}") from error

    def refresh_published(self) -> None:
        """Bring the table `published` up to bench/published.csv; deletes nothing."""
        with self._writing() as connection:
            take_turns(connection)
            fill_published(connection, refresh=True)

    @patient
    def _rows(self, query: Any) -> list[RowValues]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translate_errors(self.url, self._busy), self._reader.connect() as connection:
            yield connection

    def _check_writable(self) -> None:
        if self.readonly:
            raise StoreError(f"{self.where} was opened for reading only.")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._check_writable()
        with translate_errors(self.url, self._busy), self._writer.begin() as connection:
            yield connection
