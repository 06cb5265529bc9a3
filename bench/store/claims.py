"""Claims: which process works on which unit of a run. One transaction checks and inserts; a lease that ends is free."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from bench.store.database import StoreError
from bench.store.migrations import take_turns
from bench.store.patience import patient
from bench.store.process import describe_holder, is_gone, mark_process
from bench.store.reading import ReadableStore
from bench.store.rows import RowValues, check_columns, is_equal
from bench.store.schema import BatchRow, CellRow, ClaimRow, RunRow

KEPT_BY_STORE = ("id", "cell_key", "status", "host", "pid", "started_at", "finished_at", "failures")
ERROR = ("error_class", "error_message", "remedy", "error_traceback")
SILENCE = 1 / 3  # of a lease: a holder beats ten times in one, so that this long without a beat means that it stopped


class LostClaim(StoreError):
    """The lease ended and another process has the unit now, or has finished it: what was computed here is dropped."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A unit of a run that this process may work on while its lease lasts.

    Attributes:
        run_id: the run.
        unit: the number of a batch, "gates" or "summary".
        token: random; whoever takes the unit over writes another one.
    """

    run_id: int
    unit: str
    token: str


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The run that a process may work on.

    Attributes:
        run_id: its number; None where a run has been finished meanwhile.
        given_up: whether it failed as often as is allowed.
        differs: columns in which the newest unfinished run differs; not empty where a run starts anew because of them.
    """

    run_id: int | None
    given_up: bool = False
    differs: tuple[str, ...] = ()


class ClaimingStore(ReadableStore):
    """An open result database whose runs are shared out between processes, unit by unit."""

    @patient
    def join_run(
        self,
        cell_key: str,
        same: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        after: int = 0,
        done_before: int = 0,
        retries: int = 0,
        failures_before: Mapping[int, int] | None = None,
    ) -> Joined:
        """Find the unfinished run of a cell to work on, or start one; all processes that ask get the same.

        Args:
            cell_key: the cell's whole key.
            same: columns of `runs` that have to be equal to go on with a run (commit, weights, batch size ...).
            provenance: columns of a new run, as for `Store.start_run`.
            after: runs up to this number are left alone, finished or not.
            done_before: the newest finished run that the caller knows; a later one means that there is nothing to do.
            retries: how often a run that failed is tried again.
            failures_before: run -> failures that do not count, because they are older than the caller's command.
        """
        self._check_writable()
        wanted = check_columns(same, RunRow)
        with self._reading() as connection:  # where others work on it already, without waiting in turn for the lock
            newest = select(RunRow).where(RunRow.cell_key == cell_key).order_by(RunRow.id.desc()).limit(1)
            run = connection.execute(newest).mappings().one_or_none()
            if run is not None and run["status"] == "running" and run["host"] is not None and run["id"] > after:
                if all(is_equal(run[name], value) for name, value in wanted.items()):
                    last = _find_last_done(connection, cell_key)
                    return Joined(run_id=None if last > max(after, done_before) else run["id"])
        with self._writing() as connection:
            take_turns(connection)
            last = _find_last_done(connection, cell_key)
            if last > max(after, done_before):
                return Joined(run_id=None)
            query = select(RunRow).where(RunRow.cell_key == cell_key, RunRow.id > max(last, after))
            differs: tuple[str, ...] = ()
            for run in connection.execute(query.order_by(RunRow.id.desc()).with_for_update()).mappings():
                if run["status"] == "done":  # finished while this waited for its row: it is not opened again
                    return Joined(run_id=None)
                other = tuple(name for name, value in wanted.items() if not is_equal(run[name], value))
                differs = differs or other
                if not other:
                    before = (failures_before or {}).get(run["id"], 0)
                    if run["status"] == "failed" and (run["failures"] or 0) - before > retries:
                        return Joined(run_id=run["id"], given_up=True)
                    reopen_run(connection, run)
                    return Joined(run_id=run["id"])
            return Joined(run_id=insert_run(connection, cell_key, provenance), differs=differs)

    @patient
    def claim_unit(
        self, run_id: int, *, batches: int, gates: bool, lease: float, take_over: bool = False
    ) -> Claim | None:
        """Claim what is to be done next in a run: a batch, then the gates, then the summary.

        Args:
            run_id: the run.
            batches: how many batches the run has.
            gates: whether it gets validity gates.
            lease: seconds until the claim is free again, unless it is extended.
            take_over: do not wait for the end of a lease whose holder has stopped beating.

        Returns:
            The claim; None where other processes hold all that can be done now, or the run has ended.
        """
        with self._writing() as connection:
            run = _lock_run(connection, run_id)
            if run is None or run["status"] != "running":
                return None
            now = read_clock(connection)
            rows = connection.execute(select(ClaimRow).where(ClaimRow.run_id == run_id)).mappings()
            held = {row["unit"]: row for row in rows}
            for unit in _units_left(connection, run, batches, gates):
                if unit in held and not _is_free(dict(held[unit]), now, take_over):
                    continue
                connection.execute(delete(ClaimRow).where(ClaimRow.run_id == run_id, ClaimRow.unit == unit))
                token = secrets.token_hex(8)
                values = {"run_id": run_id, "unit": unit, "token": token, "holder": describe_holder()}
                times = {"claimed_at": now, "beat_at": now, "expires_at": now + timedelta(seconds=lease)}
                connection.execute(insert(ClaimRow).values(**values, **times, process=mark_process()))
                return Claim(run_id=run_id, unit=unit, token=token)
        return None

    def extend(self, claim: Claim, lease: float) -> bool:
        """Let a claim last `lease` seconds from now; False where it is another's, or gone."""
        with self._writing() as connection:
            now = read_clock(connection)
            until = {"beat_at": now, "expires_at": now + timedelta(seconds=lease)}
            return connection.execute(update(ClaimRow).where(*_is(claim)).values(**until)).rowcount == 1

    def release(self, claim: Claim) -> None:
        """Give a claim back, so that any process may take the unit at once."""
        with self._writing() as connection:
            connection.execute(delete(ClaimRow).where(*_is(claim)))

    @patient
    def claims(self) -> list[RowValues]:
        """All claims, with the cell, and by the database's clock: whether the lease lasts (`live`), its age, its rest.

        `age` is how long ago the unit was claimed, `rest` how long the lease still lasts; both in seconds.
        """
        with self._reading() as connection:
            now = read_clock(connection)
            query = select(ClaimRow, RunRow.cell_key).join(RunRow, RunRow.id == ClaimRow.run_id)
            rows = connection.execute(query.order_by(ClaimRow.run_id, ClaimRow.claimed_at)).mappings()
            return [
                {
                    **row,
                    "live": not _is_free(dict(row), now, False),
                    "age": (now - row["claimed_at"]).total_seconds(),
                    "rest": (row["expires_at"] - now).total_seconds(),
                }
                for row in rows
            ]

    def are_held(self, cell_keys: Collection[str], *, take_over: bool = False) -> bool:
        """Whether other processes hold all that is left of some cells."""
        return self.find_held(take_over=take_over).issuperset(cell_keys)

    @patient
    def find_held(self, *, take_over: bool = False) -> set[str]:
        """Keys of the cells of which other processes hold all that is left: one cheap question about all cells."""
        newest = select(func.max(RunRow.id)).group_by(RunRow.cell_key)
        stored = select(func.count()).where(BatchRow.run_id == RunRow.id).correlate(RunRow).scalar_subquery()
        columns = (RunRow.id, RunRow.cell_key, RunRow.batch_size, CellRow.num_images, stored.label("stored"))
        running = select(*columns).join(CellRow, CellRow.key == RunRow.cell_key).where(RunRow.id.in_(newest))
        with self._reading() as connection:
            now = read_clock(connection)
            claims = [dict(row) for row in connection.execute(select(ClaimRow)).mappings()]
            live = Counter(row["run_id"] for row in claims if not _is_free(row, now, take_over))
            held = set()
            for run in connection.execute(running.where(RunRow.status == "running")).mappings():
                batches = -(-run["num_images"] // (run["batch_size"] or run["num_images"]))
                if live[run["id"]] >= max(1, batches - run["stored"]):
                    held.add(run["cell_key"])
        return held

    @patient
    def last_run(self) -> int:
        """The number of the newest run of all; 0 without one."""
        with self._reading() as connection:
            return connection.execute(select(func.max(RunRow.id))).scalar() or 0


def read_clock(connection: Connection) -> datetime:
    """The time that all processes share, in UTC: the server's own, or this machine's for a file."""
    if connection.dialect.name == "postgresql":
        return connection.execute(select(func.timezone("utc", func.clock_timestamp()))).scalar_one()
    return datetime.now(UTC).replace(tzinfo=None)


def end_claim(connection: Connection, claim: Claim) -> None:
    """Check that a claim is still this process's and remove it, in the transaction that stores its work.

    Raises:
        LostClaim: another process has the unit, or has finished it.
    """
    _lock_run(connection, claim.run_id)
    if connection.execute(delete(ClaimRow).where(*_is(claim))).rowcount != 1:
        raise LostClaim(
            f"The lease on {claim.unit} of run {claim.run_id} has ended and another process took it over. "
            "What was computed here is dropped; nothing was changed."
        )


def insert_run(connection: Connection, cell_key: str, provenance: Mapping[str, Any]) -> int:
    """Insert a new run, by this process; its number."""
    of_cell = select(CellRow.batch_size).where(CellRow.key == cell_key).scalar_subquery()
    row = {"batch_size": of_cell, **check_columns(provenance, RunRow, refused=KEPT_BY_STORE)}
    started = insert(RunRow).values(**row, **_by_this_process(), cell_key=cell_key, started_at=now_in_seconds())
    key = connection.execute(started).inserted_primary_key
    assert key is not None
    return key[0]


def reopen_run(connection: Connection, run: RowMapping) -> None:
    """Let an unfinished run go on; one that failed remembers its error among its notes."""
    change: RowValues = _by_this_process()
    if run["status"] == "failed":
        earlier = f"resumed after {run['error_class']}: {run['error_message']}"
        change |= {**dict.fromkeys(ERROR), "finished_at": None, "notes": [*(run["notes"] or []), earlier]}
    connection.execute(update(RunRow).where(RunRow.id == run["id"]).values(**change))


def now_in_seconds() -> datetime:
    """UTC, in whole seconds."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def _find_last_done(connection: Connection, cell_key: str) -> int:
    done = select(func.max(RunRow.id)).where(RunRow.cell_key == cell_key, RunRow.status == "done")
    return connection.execute(done).scalar() or 0


def _lock_run(connection: Connection, run_id: int) -> RowMapping | None:
    """The run's row, locked: claims of one run are given one after the other (SQLite's transactions are so anyway)."""
    return connection.execute(select(RunRow).where(RunRow.id == run_id).with_for_update()).mappings().one_or_none()


def _units_left(connection: Connection, run: RowMapping, batches: int, gates: bool) -> Iterator[str]:
    stored = set(connection.execute(select(BatchRow.number).where(BatchRow.run_id == run["id"])).scalars())
    left = [number for number in range(batches) if number not in stored]
    if left:
        yield from map(str, left)
    else:
        yield "gates" if gates and run["gates"] is None else "summary"


def _is_free(claim: Mapping[str, Any], now: datetime, take_over: bool) -> bool:
    lease = claim["expires_at"] - claim["beat_at"]
    silent = take_over and now - claim["beat_at"] > lease * SILENCE
    return now >= claim["expires_at"] or silent or is_gone(claim["process"])


def _is(claim: Claim) -> tuple[Any, ...]:
    return ClaimRow.run_id == claim.run_id, ClaimRow.unit == claim.unit, ClaimRow.token == claim.token


def _by_this_process() -> RowValues:
    host, pid = describe_holder().rsplit(":", 1)
    return {"status": "running", "host": host, "pid": int(pid)}
