"""The database is away for a minute, or locked for half of one: nothing is lost and nothing is measured twice."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from servers import SERVICES, served
from worker_processes import check_whole, start, write_grid

from bench.store import Store

PORT = "54417"


def wait_for_batches(url: str, number: int) -> None:
    with Store(url, readonly=True, patience=60.0) as store:
        while sum(row["batches"] for row in store.progress()) < number:
            time.sleep(0.1)


def finish(workers: list[subprocess.Popen[str]], told: str) -> None:
    """Both end well, have said that they wait for the database, and dropped nothing that they had measured."""
    outs = [child.communicate()[0] for child in workers]
    assert [child.returncode for child in workers] == [0, 0], outs
    assert told in "".join(outs) and "asked again for" in "".join(outs), outs
    assert "dropped" not in "".join(outs), outs


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_is_away_for_a_minute(tmp_path: Path, mode: str) -> None:
    with served("postgres", PORT) as (variables, folder):
        url, grid = variables["BENCH_TEST_POSTGRES"], write_grid(tmp_path, 12)
        Store(url).close()
        workers = [start(grid, url) for _ in range(2)]
        wait_for_batches(url, 2)
        for words in (("stop", folder, PORT, mode), ("start", folder, PORT)):
            subprocess.run([SERVICES / "postgres.sh", *words], check=True, stdout=subprocess.DEVNULL)
            time.sleep(60 if words[0] == "stop" else 0)
        finish(workers, "127.0.0.1")
        check_whole(url, tmp_path / "alone.sqlite", grid)


@pytest.mark.slow
def test_the_file_is_locked_for_half_a_minute(tmp_path: Path) -> None:
    path, grid = tmp_path / "r.sqlite", write_grid(tmp_path, 12)
    Store(path).close()
    workers = [start(grid, str(path)) for _ in range(2)]
    wait_for_batches(str(path), 2)
    other = sqlite3.connect(path, isolation_level=None, timeout=60)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(30)
    other.execute("ROLLBACK")
    other.close()
    finish(workers, "locked by another program")
    check_whole(str(path), tmp_path / "alone.sqlite", grid)
