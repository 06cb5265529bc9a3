"""`bench.run` and the command give the same rows; a grid file may have any name."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import bench
from bench.cli import main

ROOT = Path(__file__).resolve().parents[3]
GRID = '''"""Two cells."""
from sizes_of_this_grid import EPSILON
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.gaussian_noise import GaussianNoise


def cells():
    for defense in (GaussianNoise(sigma=0.1), AdversarialTraining(model="{model}")):
        yield Cell(dataset="digits", classifier="digits_cnn", defense=defense, num_images=4, draws=3,
            attack=PGDEOT(steps=2, step_size=EPSILON / 2, eot=2), threat=ThreatModel(epsilon=EPSILON))
'''
WHEN = ["seconds", "measured_at", "run_id", "finished_at"]


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "sizes_of_this_grid.py").write_text("EPSILON = 3 / 16")
    path = tmp_path / "my_grid.py"
    path.write_text(GRID.replace("{model}", "digits_cnn_at"))
    return path


def rows(db: Path) -> pd.DataFrame:
    """Without what is never the same twice: times, and the gate whose seed is a secret."""
    found = bench.results(db).drop(columns=WHEN, errors="ignore").sort_values("cell_key").reset_index(drop=True)
    repeatable = [[gate for gate in gates if gate["gate"] != "outsider"] for gates in found["gates"]]
    return found.assign(gates=repeatable)


def test_the_command_and_the_function_give_the_same_rows(grid: Path, tmp_path: Path) -> None:
    result = bench.run(grid, db=tmp_path / "python.sqlite", device="cpu", progress=False)
    shell = CliRunner().invoke(
        main, ["run", "--grid", str(grid), "--db", str(tmp_path / "shell.sqlite"), "--device", "cpu"]
    )
    assert shell.exit_code == 0, shell.output
    pd.testing.assert_frame_equal(rows(tmp_path / "python.sqlite"), rows(tmp_path / "shell.sqlite"))
    assert len(result.done) == len(result.frame) == 2 and not result.failed
    assert list(result.frame["cell_key"]) == [cell.key for cell in result.cells]
    assert str(result).replace("python.sqlite", "shell.sqlite") in shell.output
    assert result._repr_html_().startswith("<table") and "my_grid" in result.table("markdown")
    again = bench.run(grid, db=tmp_path / "python.sqlite", device="cpu", progress=False)
    assert len(again.skipped) == 2 and len(again.frame) == 2


def test_a_cell_that_fails_is_told(grid: Path, tmp_path: Path) -> None:
    grid.write_text(GRID.replace("{model}", "no_such_network"))
    result = bench.run(grid, db=tmp_path / "results.sqlite", progress=False)
    (failed,) = result.failed
    assert "no_such_network" in result.errors[failed.key] and len(result.frame) == 1
    assert "no_such_network" in repr(result)


@pytest.mark.parametrize("name", ["random", "logging", "torch"])
def test_a_grid_may_be_called_like_a_module(grid: Path, tmp_path: Path, name: str) -> None:
    import torch

    before = {"random": random, "logging": logging, "torch": torch}[name]
    path = grid.rename(tmp_path / f"{name}.py")
    result = bench.run(path, db=tmp_path / "results.sqlite", progress=False, limit=1)
    assert len(result.done) == 1 and set(result.frame["grid"]) == {name}
    assert sys.modules[name] is before


def test_such_a_grid_runs_as_a_command_in_its_folder(grid: Path, tmp_path: Path) -> None:
    path = grid.rename(tmp_path / "torch.py")
    (tmp_path / "random.py").write_text("raise SystemExit('not the random of Python')")
    program = (
        f"import sys; sys.path.append({str(ROOT)!r}); import runpy; runpy.run_module('bench', run_name='__main__')"
    )
    del program
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "--grid", path.name, "--limit", "1"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 done" in done.stdout
