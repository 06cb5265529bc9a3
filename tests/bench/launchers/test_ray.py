"""Ray: what a worker asks for; and on a real Ray a grid on a cluster of its own, and on one that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import served

from bench.launchers.on_ray import share_of
from bench.store import Store

ROOT = Path(__file__).parents[3]
GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.jpeg import JPEG
from defenses.undefended import Undefended

def cells():
    for defense in (Undefended(), JPEG()):
        yield Cell(dataset="digits", classifier="digits_cnn", score=None, defense=defense,
                   attack=PGDEOT(steps=2, step_size=0.03, eot=1),
                   threat=ThreatModel(epsilon=3 / 16, gradient=KIND[defense.name]), num_images=8, batch_size=2, draws=1)
KIND = {"undefended": "exact", "jpeg": "straight_through"}
"""


@pytest.mark.parametrize(
    ("resources", "workers", "device", "share"),
    [
        ({"CPU": 16.0, "GPU": 8.0}, 8, None, {"num_gpus": 1.0, "num_cpus": 0.0}),
        ({"CPU": 16.0, "GPU": 8.0}, 16, "cuda", {"num_gpus": 1.0, "num_cpus": 0.0}),
        ({"CPU": 16.0, "GPU": 8.0}, 4, "cpu", {"num_cpus": 4.0}),
        ({"CPU": 16.0}, 5, None, {"num_cpus": 3.0}),
        ({"CPU": 2.0}, 8, None, {"num_cpus": 0.25}),
    ],
)
def test_a_worker_asks_for_a_gpu_or_its_share_of_the_cores(
    resources: dict[str, float], workers: int, device: str | None, share: dict[str, float]
) -> None:
    assert share_of(resources, workers, device) == share


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    pytest.importorskip("ray", reason="ray is not installed")
    with served("ray", "27379") as (variables, _):
        yield variables


def run(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    grid = folder / "small.py"
    grid.write_text(GRID)
    command = [sys.executable, "-m", "bench.cli", "run", "--grid", str(grid), "--db", str(folder / "r.sqlite")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [*command, "--launcher", "ray", "--workers", "2", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    done = run(tmp_path, "--device", "cpu")
    assert done.returncode == 0 and "2 done" in done.stdout and "worker 0: " in done.stdout, done.stdout + done.stderr
    with Store(tmp_path / "r.sqlite", readonly=True) as store:
        assert [len(store.runs_of(row["cell_key"])) for row in store.results()] == [1, 1] and store.claims() == []


@pytest.mark.slow
def test_a_cluster_that_runs_gives_each_worker_a_gpu(cluster: dict[str, str], tmp_path: Path) -> None:
    """Its two GPUs are pretended: torch finds none, and measures on the CPU."""
    done = run(tmp_path, "--one-host", "--ray-address", cluster["BENCH_TEST_RAY"], **cluster)
    assert done.returncode == 0 and "2 done" in done.stdout, done.stdout + done.stderr
    lost = run(tmp_path, "--one-host", "--force", "--ray-address", "127.0.0.1:1")
    assert lost.returncode == 2 and "--ray-address" in lost.stderr
