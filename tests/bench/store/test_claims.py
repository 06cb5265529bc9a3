"""Claims: one holder a unit, a lease that ends is free, one that beats is not, and the loser drops its work."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from store_data import CELL, DATABASES, PROVENANCE, SUMMARY, batch, fresh_url, image, save_all

from bench.store import Claim, LostClaim, Store, StoreError
from bench.store import process as process_module
from bench.store.process import is_gone, mark_process

KEY = CELL["key"]
IMAGES = ([image(42, 10), image(7, 7)], [image(99, 5), image(3, 0)])


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with fresh_url(request.param, tmp_path / "r.sqlite") as url, Store(url) as opened:
        opened.add_cell(CELL)
        opened.start_run(KEY, **PROVENANCE)
        yield opened


def claim(store: Store, *, lease: float = 60.0, gates: bool = False, take_over: bool = False) -> Claim | None:
    return store.claim_unit(1, batches=2, gates=gates, lease=lease, take_over=take_over)


def let_pass(store: Store, seconds: float) -> None:
    """Make all claims older."""
    with store._writing() as connection:
        for row in connection.execute(text("SELECT unit, beat_at, expires_at FROM claims")).all():
            older = f"-{seconds} seconds"
            if connection.dialect.name == "sqlite":
                change = "beat_at = strftime('%Y-%m-%d %H:%M:%f', beat_at, :old), expires_at = strftime('%Y-%m-%d %H:%M:%f', expires_at, :old)"  # noqa: E501
            else:
                change = "beat_at = beat_at + CAST(:old AS interval), expires_at = expires_at + CAST(:old AS interval)"
            connection.execute(text(f"UPDATE claims SET {change} WHERE unit = :unit"), {"old": older, "unit": row.unit})


def test_units_come_one_by_one_and_end_with_the_summary(store: Store) -> None:
    first, second = claim(store, gates=True), claim(store, gates=True)
    assert first and second and (first.unit, second.unit) == ("0", "1") and claim(store, gates=True) is None
    store.save_batch(1, batch(0), IMAGES[0], claim=first)
    assert claim(store, gates=True) is None  # batch 1 is held
    store.save_batch(1, batch(1), IMAGES[1], claim=second)
    gates = claim(store, gates=True)
    assert gates and gates.unit == "gates" and claim(store, gates=True) is None
    store.save_gates(gates, SUMMARY["gates"])
    summary = claim(store, gates=True)
    assert summary and summary.unit == "summary"
    store.finish_run(1, summary, **{k: v for k, v in SUMMARY.items() if k != "gates"})
    assert claim(store) is None and store.claims() == []
    assert store.results()[0]["gates"] == SUMMARY["gates"]


def test_many_at_once_get_different_units(store: Store) -> None:
    barrier = threading.Barrier(8)

    def ask(_: int) -> Claim | None:
        barrier.wait()
        with Store(store.url.render_as_string(hide_password=False), patience=30.0) as own:
            return own.claim_unit(1, batches=5, gates=False, lease=60.0)

    with ThreadPoolExecutor(8) as pool:
        found = [one.unit for one in pool.map(ask, range(8)) if one is not None]
    assert sorted(found) == ["0", "1", "2", "3", "4"]


def test_a_lease_that_has_ended_is_taken_over_and_the_first_holder_drops_its_work(store: Store) -> None:
    slow = claim(store)
    assert slow
    let_pass(store, 61.0)
    quick = claim(store)
    assert quick and quick.unit == slow.unit and quick.token != slow.token
    assert not store.extend(slow, 60.0) and store.extend(quick, 60.0)
    for late in (
        lambda: store.save_batch(1, batch(0), IMAGES[0], claim=slow),
        lambda: store.fail_run(1, ValueError("late"), claim=slow),
        lambda: store.save_gates(slow, []),
        lambda: store.finish_run(1, slow, **SUMMARY),
    ):
        with pytest.raises(LostClaim, match="lease on 0 of run 1 has ended"):
            late()
    store.save_batch(1, batch(0), IMAGES[0], claim=quick)
    assert store.runs_of(KEY)[0]["status"] == "running" and store.images(1) == IMAGES[0]


def test_an_ended_lease_that_nobody_took_is_still_the_holders(store: Store) -> None:
    mine = claim(store)
    assert mine
    let_pass(store, 61.0)
    store.save_batch(1, batch(0), IMAGES[0], claim=mine)
    assert store.images(1) == IMAGES[0]


def test_the_same_host_and_process_number_do_not_open_a_live_claim(store: Store) -> None:
    """As in containers, where both repeat: this very process asks a second time."""
    held = [claim(store), claim(store)]
    assert all(held) and claim(store) is None and claim(store, take_over=True) is None


def test_take_over_takes_what_has_stopped_beating_and_nothing_that_beats(store: Store) -> None:
    stopped, beats = claim(store), claim(store)
    assert stopped and beats
    let_pass(store, 25.0)  # a third of the lease is 20 s
    store.extend(beats, 60.0)
    assert claim(store) is None
    taken = claim(store, take_over=True)
    assert taken and taken.unit == stopped.unit and claim(store, take_over=True) is None


def test_a_claim_that_was_given_back_is_free(store: Store) -> None:
    mine = claim(store)
    assert mine
    store.release(mine)
    again = claim(store)
    assert again and again.unit == mine.unit and again.token != mine.token


def test_a_process_of_this_machine_that_is_gone_holds_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    place, _, _ = mark_process().rsplit("/", 2)
    mark = f"{place}/{child.pid}/{process_module._read_start(child.pid)}"
    assert not is_gone(mark) and not is_gone(None) and not is_gone(mark_process())
    assert not is_gone(f"another boot/1/{child.pid}/0")
    child.kill()
    while not is_gone(mark):  # before anybody has waited for it, too
        time.sleep(0.01)
    child.wait()
    monkeypatch.setattr("bench.store.claims.mark_process", lambda: mark)
    assert claim(store)
    monkeypatch.undo()
    again = claim(store)
    assert again and again.unit == "0"


def test_a_batch_measured_while_the_run_failed_elsewhere_is_kept(store: Store) -> None:
    first, second = claim(store), claim(store)
    store.fail_run(1, ValueError("nan"), claim=first)
    assert claim(store) is None
    store.save_batch(1, batch(1), IMAGES[1], claim=second)
    row = store.runs_of(KEY)[0]
    assert (row["status"], row["failures"]) == ("failed", 1) and store.images(1) == IMAGES[1]


def test_a_run_of_several_devices_names_them(store: Store) -> None:
    import dataclasses

    for number, device in enumerate(("NVIDIA H100", "NVIDIA A100")):
        store.save_batch(1, dataclasses.replace(batch(number), device=device), IMAGES[number])
    store.finish_run(1, **SUMMARY)
    assert store.results()[0]["device"] == "NVIDIA A100 + NVIDIA H100"


def test_a_run_of_an_older_version_keeps_its_device(store: Store) -> None:
    save_all(store, 1)
    store.finish_run(1, **SUMMARY)
    assert store.results()[0]["device"] == PROVENANCE["device"]


def test_a_lock_is_waited_out_and_the_batch_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Store(path, busy_seconds=0.1, patience=20.0) as store:
        store.add_cell(CELL)
        run = store.start_run(KEY)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(2.0, lambda: other.execute("ROLLBACK"))
        timer.start()
        begin = time.monotonic()
        store.save_batch(run, batch(0), IMAGES[0])
        assert time.monotonic() - begin > 1.5 and store.images(run) == IMAGES[0]
        other.close()


def test_patience_ends(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Store(path, busy_seconds=0.05, patience=0.6) as store:
        store.add_cell(CELL)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with pytest.raises(StoreError, match="locked by another program"):
            store.start_run(KEY)
        assert 0.5 < time.monotonic() - begin < 5.0
        other.close()


def test_progress_and_rate(store: Store) -> None:
    store.add_cell({**CELL, "key": "ff00", "seed": 1})
    held = claim(store)
    store.save_batch(1, batch(0), IMAGES[0], claim=held)
    rows = {row["key"]: (row["status"], row["images"]) for row in store.progress()}
    assert rows == {KEY: ("running", 2), "ff00": ("waiting", 0)}
    rate = store.measure_rate(None, 600.0)
    assert rate.images == 2 and 0.5 <= rate.seconds < 10.0 and rate.idle < 10.0
    assert store.measure_rate({"ff00"}, 600.0).images == 0  # another grid's


def test_another_users_process_that_may_not_be_seen_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc mounted with hidepid shows no process of other users; a signal still says that there is one."""
    mark = mark_process()
    assert mark is not None
    monkeypatch.setattr(process_module, "_read_state", lambda pid: None)
    assert not is_gone(mark)
    monkeypatch.undo()
    assert is_gone(mark.rsplit("/", 1)[0] + "/1")  # the number was given to another process since
    assert not is_gone("another boot/" + mark.split("/", 1)[1])


def test_a_process_that_waits_asks_one_question(store: Store) -> None:
    assert not store.are_held({KEY})
    held = [claim(store), claim(store)]
    assert store.are_held({KEY}) and not store.are_held({KEY, "ff00"})
    let_pass(store, 25.0)
    assert store.are_held({KEY}) and not store.are_held({KEY}, take_over=True)
    assert all(store.extend(one, 60.0) for one in held)
    store.save_batch(1, batch(0), IMAGES[0], claim=held[0])
    assert store.are_held({KEY})  # of two batches one is stored and one is held
    store.save_batch(1, batch(1), IMAGES[1], claim=held[1])
    assert not store.are_held({KEY})  # the summary is free
    assert claim(store) and store.are_held({KEY})
    let_pass(store, 61.0)
    assert not store.are_held({KEY})


def test_many_begin_a_cell_and_get_the_same_run(store: Store) -> None:
    """Also those that come later, who read it without waiting in turn, and never a run of other weights."""
    first = store.join_run(KEY, PROVENANCE, PROVENANCE)
    assert first.run_id == 1 and store.join_run(KEY, PROVENANCE, PROVENANCE) == first
    other = PROVENANCE | {"weights": {"plain": "34cd"}}
    second = store.join_run(KEY, other, other)
    assert second.run_id == 2 and second.differs == ("weights",) and store.join_run(KEY, other, other).run_id == 2
    assert store.join_run(KEY, PROVENANCE, PROVENANCE).run_id == 1
    store.pause_run(2)
    assert store.join_run(KEY, other, other).run_id == 2 and store.runs_of(KEY)[0]["host"]


def test_a_database_that_is_away_when_it_is_opened_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.sqlite"
    Store(path).close()
    with Store(path) as opened, opened._writing() as connection:
        connection.execute(text("DELETE FROM published"))  # so that opening has to write
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, lambda: other.execute("ROLLBACK")).start()
    with Store(path, busy_seconds=0.1, patience=20.0) as store:
        assert store.published()
    assert "locked by another program" in caplog.text and "asked again for" in caplog.text
    other.close()


@pytest.mark.parametrize(
    ("told", "away"),
    [
        ('FATAL:  password authentication failed for user "x"', False),
        ('FATAL:  database "bench" does not exist', False),
        ("connection refused", True),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
    ],
)
def test_what_waiting_mends(told: str, away: bool) -> None:
    from sqlalchemy.exc import OperationalError

    from bench.store.database import _is_away

    assert _is_away(OperationalError("connect", {}, Exception(told))) is away


def test_a_network_file_that_another_host_works_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.store.network_files import check_alone

    with Store(tmp_path / "r.sqlite") as store:
        store.add_cell(CELL)
        store.start_run(KEY, **PROVENANCE)
        held = claim(store)
        monkeypatch.setattr("bench.store.network_files.find_file_system", lambda path: "nfs4")
        check_alone(store)  # held by this host
        monkeypatch.setattr("socket.gethostname", lambda: "node17")
        with pytest.raises(StoreError, match="network file system, and .* works on it now"):
            check_alone(store)
        assert held
        store.release(held)
        check_alone(store)
