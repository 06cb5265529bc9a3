"""Workers as processes of their own on a small grid, and what they have to leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.store import Store

ROOT = Path(__file__).parents[1]
GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE

def cells():
    for defense in (DiffPureSDE(t=0.1, steps=8), Contrastive(t=0.1, steps=4)):
        yield Cell(dataset="digits", classifier="digits_cnn", score="digits_score", defense=defense,
                   attack=PGDEOT(steps=STEPS, step_size=0.03, eot=2), threat=ThreatModel(epsilon=3 / 16),
                   num_images=24, batch_size=3, draws=4)
"""


def start(grid: Path, db: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.cli", "worker", "--grid", str(grid), "--db", db, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(db: str) -> dict[str, object]:
    """What was measured, without when and by whom."""
    with Store(db, readonly=True) as store:
        found = {}
        for row in store.results():
            changing = (
                "seconds",
                "measured_at",
                "run_id",
                "notes",
                "gates",
            )  # `outsider` draws a seed that nobody knows
            batches = [(b.number, b.network_evaluations, b.curve) for b in store.batches(row["run_id"])]
            kept = {name: value for name, value in row.items() if name not in changing}
            found[row["cell_key"]] = (kept, batches, store.images(row["run_id"]))
        return found


def write_grid(folder: Path, steps: int) -> Path:
    grid = folder / "small.py"
    grid.write_text(GRID.replace("STEPS", str(steps)))
    return grid


def check_whole(db: str, alone: Path, grid: Path) -> None:
    """Every cell once, each run one, rows equal to one worker's, no claim left."""
    assert start(grid, str(alone)).wait() == 0
    expected, found = rows(str(alone)), rows(db)
    assert len(expected) == 2 and found == expected
    with Store(db, readonly=True) as store:
        assert all(len(store.runs_of(key)) == 1 for key in expected) and store.claims() == []
