"""Many processes on one grid: each batch once, whatever is killed or frozen, and the rows of one process alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from store_data import DATABASES, fresh_url
from worker_processes import check_whole, start, write_grid

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.grids import grid_cells
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.run.work import Sharing
from bench.store import Store, StoreError
from bench.threat import ThreatModel
from defenses.undefended import Undefended

ROOT = Path(__file__).parents[3]
WORKERS, KILLS = 8, 50
LOADER = Loader(torch.device("cpu"))


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_step(self, attack: str, step: int) -> None: ...
    def show_images(self, done: int, total: int) -> None: ...
    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.told.append((status, text))


def cell(**changes: object) -> Cell:
    fields = {
        "dataset": "digits", "classifier": "digits_cnn", "score": None, "defense": Undefended(),
        "attack": PGDEOT(steps=2, step_size=0.05, eot=1), "threat": ThreatModel(epsilon=3 / 16),
        "num_images": 12, "batch_size": 4, "draws": 1,
    }  # fmt: skip
    return Cell(**(fields | changes))


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path / "r.sqlite") as address:
        yield address


def find_running(workers: list[subprocess.Popen[str]]) -> list[int]:
    running = [n for n, child in enumerate(workers) if child.poll() is None]
    assert running, "the grid was done before the last kill: make it longer"
    return running


def find_busy(url: str, workers: list[subprocess.Popen[str]]) -> list[int]:
    """Workers that hold a claim now: waits until there is one."""
    with Store(url, readonly=True, patience=30.0) as store:
        while True:
            holders = {int(claim["holder"].rsplit(":", 1)[1]) for claim in store.claims()}
            if busy := [n for n in find_running(workers) if workers[n].pid in holders]:
                return busy
            time.sleep(0.05)


@pytest.mark.slow
def test_many_workers_and_kills_give_the_rows_of_one(url: str, tmp_path: Path) -> None:
    grid, moments = write_grid(tmp_path, 24), random.Random(0)
    Store(url).close()
    workers = [start(grid, url, "--lease", "3") for _ in range(WORKERS)]
    for kill in range(KILLS):
        time.sleep(moments.uniform(0.2, 3.0))
        place = moments.choice(find_busy(url, workers) if kill % 2 else find_running(workers))
        workers[place].send_signal(signal.SIGKILL)
        workers[place].communicate()
        workers[place] = start(grid, url, "--lease", "3")
    for child in workers:
        out, _ = child.communicate()
        assert child.returncode == 0, out
    check_whole(url, tmp_path / "alone.sqlite", grid)


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_up_drops_its_claim(url: str, tmp_path: Path) -> None:
    grid = write_grid(tmp_path, 8)
    Store(url).close()
    frozen = start(grid, url, "--lease", "2")
    with Store(url, readonly=True) as store:
        while not store.claims():
            time.sleep(0.05)
        frozen.send_signal(signal.SIGSTOP)
        (claim,) = store.claims()
        time.sleep(2.5)
        other = start(grid, url, "--lease", "2")
        while [c for c in store.claims() if (c["unit"], c["token"]) == (claim["unit"], claim["token"])]:
            time.sleep(0.05)
        frozen.send_signal(signal.SIGCONT)
    outs = [child.communicate()[0] for child in (frozen, other)]
    assert [child.returncode for child in (frozen, other)] == [0, 0], outs
    assert "dropped" in outs[0]
    check_whole(url, tmp_path / "alone.sqlite", grid)


def test_run_with_workers(tmp_path: Path) -> None:
    grid, db = write_grid(tmp_path, 2), tmp_path / "r.sqlite"
    command = [sys.executable, "-m", "bench.cli", "run", "--grid", str(grid), "--db", str(db), "--device", "cpu"]
    for expected in ("2 done", "Nothing to do", "2 done"):
        more = ["--force"] if expected == "2 done" and db.exists() else []
        done = subprocess.run([*command, "--workers", "2", *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
    with Store(db, readonly=True) as store:
        keys = [one.key for one in grid_cells(str(grid))]
        assert [[run["status"] for run in store.runs_of(key)] for key in keys] == [["done", "done"]] * 2


def test_no_wait_leaves_what_others_hold(tmp_path: Path) -> None:
    path, one = tmp_path / "r.sqlite", cell()
    with Store(path) as store:
        hold_all(store, one)
        outcome = run_cells([one], store, LOADER, Silent(), grid="t", sharing=Sharing(wait=False))
        assert outcome.busy == [one] and not outcome.done


def hold_all(store: Store, one: Cell, hold: int = 2) -> None:
    """Begin a run and interrupt it after its first batch, then hold the others."""

    class Interrupted(Silent):
        def show_images(self, done: int, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells([one], store, LOADER, Interrupted(), grid="t")
    for _ in range(hold):
        assert store.claim_unit(store.runs_of(one.key)[0]["id"], batches=3, gates=False, lease=1.5)


def test_who_finds_everything_claimed_waits_until_the_lease_ends(tmp_path: Path) -> None:
    with Store(tmp_path / "r.sqlite") as store:
        hold_all(store, one := cell())
        begin, watcher = time.monotonic(), Silent()
        outcome = run_cells([one], store, LOADER, watcher, grid="t", sharing=Sharing(poll=0.1))
        assert outcome.done == [one] and time.monotonic() - begin > 1.0
        assert [status for status, _ in watcher.told] == ["waiting", "done"] and "batch 1 is held" in watcher.told[0][1]
        assert len(store.runs_of(one.key)) == 1


def test_what_others_hold_is_passed_without_a_visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.run.runner as runner

    true, visited = runner._Worker.visit, []

    def visit(self: object, one: Cell, every: bool | None) -> tuple[str, str]:
        visited.append(one)
        return true(self, one, every)

    with Store(tmp_path / "r.sqlite") as store:
        hold_all(store, held := cell())
        monkeypatch.setattr(runner._Worker, "visit", visit)
        free = cell(seed=1)
        outcome = run_cells([held, free], store, LOADER, Silent(), grid="t", sharing=Sharing(poll=0.1))
        assert outcome.done == [free, held] and visited[0] == free and visited.count(held) <= 2


def test_a_failed_cell_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.run.measuring as measuring

    true, calls = measuring.evaluate, []

    def sometimes(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) in (2, 5, 6):
            raise RuntimeError("the GPU fell off the bus")
        return true(*arguments, **options)

    monkeypatch.setattr(measuring, "evaluate", sometimes)
    with Store(tmp_path / "r.sqlite") as store:
        watcher = Silent()
        first = run_cells([one := cell()], store, LOADER, watcher, grid="t", sharing=Sharing(retries=1))
        assert first.done == [one] and [status for status, _ in watcher.told] == ["retried", "done"]
        (run,) = store.runs_of(one.key)
        assert run["failures"] == 1 and "fell off the bus" in run["notes"][0]
        second = run_cells([two := cell(seed=1)], store, LOADER, Silent(), grid="t", sharing=Sharing(retries=1))
        assert second.failed == [two] and store.runs_of(two.key)[0]["failures"] == 2
        third = run_cells([two], store, LOADER, Silent(), grid="t")  # a new command tries it whatever happened before
        assert third.done == [two] and len(store.runs_of(two.key)) == 1


def test_an_error_while_a_failure_is_stored_does_not_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise StoreError("the disk is on fire")

    with Store(tmp_path / "r.sqlite") as store:
        for name in ("fail_run", "fail_cell"):
            monkeypatch.setattr(store, name, broken)
        bad, good = cell(num_images=501), cell()
        watcher = Silent()
        outcome = run_cells([bad, good], store, LOADER, watcher, grid="t")
        assert (outcome.failed, outcome.done) == ([bad], [good]) and "on fire" in watcher.told[0][1]


def test_another_device_goes_on_and_other_packages_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.run.runner as runner

    true = runner.describe_origin
    with Store(tmp_path / "r.sqlite") as store:
        hold_all(store, one := cell())
        monkeypatch.setattr(runner, "describe_origin", lambda device: true(device) | {"device": "another GPU"})
        outcome = run_cells([one], store, LOADER, Silent(), grid="t", sharing=Sharing(poll=0.1))
        assert outcome.done == [one] and len(store.runs_of(one.key)) == 1
        assert store.results()[0]["device"].startswith("another GPU + cpu")
        hold_all(store, two := cell(seed=1), hold=0)
        monkeypatch.setattr(runner, "describe_origin", lambda device: true(device) | {"commit_hash": "other"})
        watcher = Silent()
        run_cells([two], store, LOADER, watcher, grid="t")
        assert watcher.told[0] == ("anew", "an unfinished run is not continued, because of other commit_hash")
        assert len(store.runs_of(two.key)) == 2


def test_the_server_is_away_for_a_while(tmp_path: Path) -> None:
    """A lock of some seconds in the middle of a cell: the batch is kept in memory, nothing is measured twice."""
    import sqlite3

    path, one = tmp_path / "r.sqlite", cell(num_images=40)
    Store(path).close()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    class Locks(Silent):
        def show_images(self, done: int, total: int) -> None:
            if done == 12:
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(3.0, lambda: other.execute("ROLLBACK")).start()

    with Store(path, busy_seconds=0.1, patience=60.0) as store:
        outcome = run_cells([one], store, LOADER, Locks(), grid="t")
        assert outcome.done == [one] and len(store.runs_of(one.key)) == 1 and len(store.images(1)) == 40
    other.close()
