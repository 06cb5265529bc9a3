"""Where the results lie: addresses, connections that write or only read, and errors in sentences."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, StatementError
from sqlalchemy.pool import NullPool

MAGIC = b"SQLite format 3\0"
OTHER_FILE = "or give --db another file"
PATIENT = {  # seconds but the last (ms): a server that is silently gone is noticed long before a lease ends
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
HOPELESS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied")


class StoreError(ValueError):
    """The result database cannot do what was asked; the message says why and what to do. Nothing was changed."""


class StoreAway(StoreError):
    """The database is locked, or its server cannot be reached: the same may work a moment later."""


def default_url() -> str:
    """$BENCH_DB, or results.sqlite in the working directory."""
    return os.environ.get("BENCH_DB") or "results.sqlite"


def parse_url(url_or_path: str | os.PathLike[str]) -> URL:
    """Turn a URL, or the bare path of a SQLite file, into a SQLAlchemy URL.

    Raises:
        StoreError: it is neither, or a database in memory.
    """
    address = os.fspath(url_or_path)
    if "://" not in address:
        return URL.create("sqlite", database=address)
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise StoreError(f"Expected a path or a URL such as postgresql://user@host/name, got {address!r}.") from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("A database in memory is lost at exit: give --db the path of a file.")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite URL, None for other databases."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def check_file(path: Path, *, readonly: bool) -> None:
    """Check that `path` is a SQLite file or none yet, and can be written unless `readonly`.

    Raises:
        StoreError: it is not; the message says what it is.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder. Give --db the path of a file.")
    if not path.parent.is_dir():
        raise StoreError(f"There is no folder {path.parent} for {path.name}. Create it, {OTHER_FILE}.")
    if path.exists():
        _check_content(path)
    elif readonly:
        raise StoreError(f"There are no results at {path} yet. Make some with `bench run`, {OTHER_FILE}.")
    for place in (path, path.parent):  # SQLite writes its journal beside the file
        if not readonly and place.exists() and not os.access(place, os.W_OK):
            raise StoreError(f"{place} is read-only for this user. Change its permissions, {OTHER_FILE}.")


def _check_content(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Change its permissions, {OTHER_FILE}.") from error
    if head not in (b"", MAGIC):
        raise StoreError(f"{path} is not a SQLite database (it starts with {head!r}). Move it away, {OTHER_FILE}.")


def connect(url: URL, *, readonly: bool, busy_seconds: float) -> Engine:
    """Make an engine whose transactions write (SQLite: locked from their first statement) or can only read.

    Connections live as long as one transaction: hours may pass between two, on a server that restarts meanwhile.

    Args:
        url: the database.
        readonly: whether its transactions can only read.
        busy_seconds: how long SQLite waits for another writer, seconds.

    Raises:
        StoreError: the database's driver is not installed, or the URL is wrong.
    """
    options: dict[str, Any] = {"poolclass": NullPool, "json_serializer": to_json}
    path = sqlite_path(url)
    if path is not None:
        engine = create_engine("sqlite://", creator=_make_opener(path, readonly, busy_seconds), **options)
        event.listen(engine, "begin", _begin_read if readonly else _begin_write)
        return engine
    if url.drivername == "postgresql+psycopg":
        options["connect_args"] = {name: value for name, value in PATIENT.items() if name not in url.query}
    try:
        engine = create_engine(url, **options)
    except (ImportError, ArgumentError) as error:
        hint = (
            "pip install 'purification-bench[postgres]'"
            if url.drivername == "postgresql+psycopg"
            else "install its driver"
        )
        raise StoreError(f"{render_url(url)} cannot be opened: {error}. Try: {hint}, {OTHER_FILE}.") from error
    return engine.execution_options(postgresql_readonly=True) if readonly else engine


def _make_opener(path: Path, readonly: bool, busy_seconds: float) -> Callable[[], sqlite3.Connection]:
    mode = "ro" if readonly else "rwc"
    frozen = readonly and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    uri = f"file:{quote(str(path))}?mode={mode}" + ("&immutable=1" if frozen else "")

    def opener() -> sqlite3.Connection:
        if readonly and Path(f"{path}-journal").exists() and os.access(path, os.W_OK):
            _recover(path, busy_seconds)
        connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    return opener


def _recover(path: Path, busy_seconds: float) -> None:
    """Let SQLite take back what a killed program had half written: a connection that only reads cannot."""
    connection = sqlite3.connect(path, timeout=busy_seconds)
    try:
        connection.execute("PRAGMA schema_version")
    finally:
        connection.close()


def _begin_write(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_read(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def set_journal(path: Path, mode: str, *, busy_seconds: float) -> None:
    """Ask SQLite for journal `mode`: "wal" while programs work on the file, "delete" at rest (then it is one file).

    A database that is busy keeps the mode it has, which is slower or untidier, never wrong.

    Raises:
        StoreError: the file is damaged, or cannot be written.
    """
    connection = _make_opener(path, False, busy_seconds)()
    try:
        connection.execute(f"PRAGMA journal_mode={mode}")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise StoreError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is damaged: {error}. Restore it from a copy, {OTHER_FILE}.") from error
    finally:
        connection.close()


def to_json(value: object) -> str:
    """Write JSON with sorted keys and no spaces, so that equal values are equal text.

    Numpy scalars become numbers.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False, default=to_plain, separators=(",", ":"))


def to_plain(value: Any) -> Any:
    """Turn a numpy scalar into a Python number (SQLite would store its bytes); other values stay as they are."""
    return value.item() if hasattr(value, "item") else value


def render_url(url: URL) -> str:
    """Write the address as a person may see it: a path, or a URL without its password."""
    path = sqlite_path(url)
    return url.render_as_string(hide_password=True) if path is None else str(path)


@contextmanager
def translate_errors(url: URL, busy_seconds: float) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise inside into a StoreError: one sentence and what to do."""
    try:
        yield
    except StatementError as error:
        kind = StoreAway if _is_away(error) else StoreError
        raise kind(_explain(error, render_url(url), busy_seconds)) from error


def _is_away(error: StatementError) -> bool:
    """Whether waiting may help: a lock, a full disk, a server that restarts, a connection that broke, a deadlock."""
    code = getattr(error.orig, "sqlite_errorname", None) or ""
    if code:
        return code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN"))
    state = getattr(error.orig, "sqlstate", None)
    broken = isinstance(error, OperationalError | InterfaceError) and not any(told in str(error) for told in HOPELESS)
    return broken and (state is None or state.startswith(("08", "40", "53", "55P03", "57P")))


def _explain(error: StatementError, where: str, busy_seconds: float) -> str:
    cause = error.orig or error
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"{where} is locked by another program that writes to it (waited {busy_seconds:g} s). "
            f"Wait until that has ended, {OTHER_FILE}."
        )
    if code.startswith("SQLITE_READONLY") or code == "25006":  # PostgreSQL's read_only_sql_transaction
        return f"{where} is open for reading only here, and this would write: {first_line}. Nothing was changed."
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return f"{where} is damaged or no SQLite database: {first_line}. Restore it from a copy, {OTHER_FILE}."
    return f"{where}: {first_line}"
