"""What a query of a person's may do: read this database, for a while."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bench.store.database import StoreError

LOOK = 20_000  # SQLite's instructions between two looks at the clock
ELSEWHERE = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
"""Statements that open, and make, other files; VACUUM INTO is one of them to SQLite."""


@contextmanager
def limited(connection: Connection, seconds: float | None) -> Iterator[None]:
    """Let the statements of the block read one database alone, and stop what takes longer than `seconds`.

    Raises:
        StoreError: a statement that names another file, or took too long.
    """
    end = None if seconds is None else time.monotonic() + seconds
    if connection.dialect.name == "sqlite":
        _limit_sqlite(connection.connection.driver_connection, end)
    elif seconds is not None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, int(1000 * seconds))}")
    try:
        yield
    except DBAPIError as error:
        said = str(error.orig)
        if "not authorized" in said or "authorization denied" in said:
            raise StoreError(
                "A query reads this database alone: ATTACH, DETACH and VACUUM INTO are refused."
            ) from error
        if end is not None and ("interrupted" in said or getattr(error.orig, "sqlstate", None) == "57014"):
            raise StoreError(
                f"The query was stopped after {seconds:g} s. Give it more with --timeout, or ask for less."
            ) from error
        raise


def _limit_sqlite(connection: Any, end: float | None) -> None:
    def judge(action: int, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if action in ELSEWHERE else sqlite3.SQLITE_OK

    connection.set_authorizer(judge)
    if end is not None:
        connection.set_progress_handler(lambda: time.monotonic() > end, LOOK)
