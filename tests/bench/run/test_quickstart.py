"""One real quickstart run, as a new user starts it, against the committed export."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.grids import grid_cells
from bench.store import Store

ROOT = Path(__file__).parents[3]
GIB = 2**30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `bench run` printed, and its database."""
    db = tmp_path_factory.mktemp("quickstart") / "results.sqlite"
    command = [sys.executable, "-m", "bench.cli", "run", "--db", str(db)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, db


def test_agrees_with_the_committed_export(run: tuple[str, Path]) -> None:
    expected = pd.read_csv(ROOT / "docs" / "quickstart.csv").set_index("cell_key")
    with Store(run[1], readonly=True) as store:
        found = store.frame().set_index("cell_key")
    assert set(found.index) == set(expected.index) == {cell.key for cell in grid_cells("quickstart")}
    for key, row in found.iterrows():
        known = expected.loc[key]
        for kind in ("clean", "robust", "null"):
            overlap = row[f"{kind}_low"] <= known[f"{kind}_high"] and known[f"{kind}_low"] <= row[f"{kind}_high"]
            assert overlap, f"{row['defense']} {row['gradient']}: {kind} {row[f'{kind}_accuracy']}"


def test_prints_the_table_and_how_to_see_more(run: tuple[str, Path]) -> None:
    printed = " ".join(run[0].split())
    assert "contrastive" in printed and "not a robustness claim" in printed
    assert "bench report --format latex" in printed


def test_a_second_run_does_nothing(run: tuple[str, Path]) -> None:
    command = [sys.executable, "-m", "bench.cli", "run", "--db", str(run[1])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Nothing to do: all" in done.stdout


def test_needs_at_most_two_gibibytes(run: tuple[str, Path]) -> None:
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert largest * (1 if sys.platform == "darwin" else 1024) < 2 * GIB


def test_undefended_falls_and_adversarial_training_helps(run: tuple[str, Path]) -> None:
    with Store(run[1], readonly=True) as store:
        frame = store.frame()
    robust = frame[frame["gradient"] == "exact"].groupby("defense")["robust_accuracy"].max()
    assert robust["undefended"] < 10 and robust["adversarial_training"] > 60
