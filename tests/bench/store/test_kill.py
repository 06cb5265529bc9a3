"""kill -9 at random moments, then the same command again: the same rows as a run that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.records import ImageRecord
from bench.store import Store, make_database

ROOT = Path(__file__).parents[3]
KILLS = 10
GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE

def cells():
    for defense in (DiffPureSDE(t=0.1, steps=8), Contrastive(t=0.1, steps=4)):
        yield Cell(dataset="digits", classifier="digits_cnn", score="digits_score", defense=defense,
                   attack=PGDEOT(steps=6, step_size=0.03, eot=2), threat=ThreatModel(epsilon=3 / 16),
                   num_images=24, batch_size=3, draws=4)
"""


def start(grid: Path, db: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "bench.cli", "run", "--grid", str(grid), "--db", str(db), "--device", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(db: Path) -> dict[str, list[ImageRecord]]:
    with Store(db, readonly=True) as store:
        return {row["cell_key"]: store.images(row["run_id"]) for row in store.results()}


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    grid = tmp_path / "small.py"
    grid.write_text(GRID)
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    begin = time.perf_counter()
    assert start(grid, whole).wait() == 0
    length = time.perf_counter() - begin
    moments = random.Random(0)  # the early ones first: a whole run that started cold makes the later ones too late
    survived = 0
    for moment in sorted(moments.uniform(0.3, 1.0) for _ in range(KILLS)):
        process = start(grid, killed)
        try:
            process.wait(timeout=moment * length)
            survived += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    last = start(grid, killed)
    assert last.wait() == 0, last.stdout.read() if last.stdout else ""
    assert survived < KILLS
    expected, found = outcomes(whole), outcomes(killed)
    assert len(expected) == 2 and found == expected
    with Store(killed) as store:
        assert all(len(store.runs_of(key)) == 1 for key in expected)  # continued, not begun anew


def test_what_a_cluster_sends_before_it_kills_pauses_a_run(tmp_path: Path) -> None:
    grid, db = tmp_path / "small.py", tmp_path / "r.sqlite"
    grid.write_text(GRID.replace("steps=6", "steps=60"))
    make_database(db)
    process = start(grid, db)
    while process.poll() is None and not running(db):
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 130 and process.stdout and "continues from there" in process.stdout.read()
    (run,) = running(db)
    assert run["host"] is None and run["pid"] is None


def running(db: Path) -> list[dict]:
    """Unfinished runs with at least one batch."""
    if not db.is_file():
        return []
    with Store(db, readonly=True) as store:
        keys = [row[0] for row in store.query("SELECT key FROM cells")[1]]
        runs = [run for key in keys for run in store.runs_of(key)]
        return [run for run in runs if run["status"] == "running" and store.batches(run["id"])]
