"""Slurm: its options as people write them; and on a real Slurm an array that is stopped, requeued, and complete."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers import served

from bench.cli import main
from bench.launchers.command import WorkerCommand, stop
from bench.launchers.slurm import Submitted, _read_minutes, parse_slurm_options, submit
from bench.store import Store

ROOT = Path(__file__).parents[3]
GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE

def cells():
    yield Cell(dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=8),
               attack=PGDEOT(steps=STEPS, step_size=0.03, eot=2), threat=ThreatModel(epsilon=3 / 16),
               num_images=24, batch_size=3, draws=4)
"""


def test_options_are_those_of_sbatch() -> None:
    assert parse_slurm_options(["partition=gpu,time=240,gres=gpu:1", "exclusive"]) == {
        "partition": "gpu", "time": "240", "gres": "gpu:1", "exclusive": True,
    }  # fmt: skip
    assert parse_slurm_options(["gres=gpu:1,shard:2,cpus-per-task=4"]) == {
        "gres": "gpu:1,shard:2",
        "cpus_per_task": "4",
    }
    assert parse_slurm_options(["nodelist=a1,exclusive,qos=x"]) == {"nodelist": "a1", "exclusive": True, "qos": "x"}
    assert parse_slurm_options(["--constraint=a100|h100", "comment=b=c"]) == {
        "constraint": "a100|h100",
        "comment": "b=c",
    }


@pytest.mark.parametrize("text", ["=gpu", "partition=", "array=0-3", "output=x", "signal=USR1", "-p gpu", ""])
def test_options_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--slurm NAME=VALUE|sets sbatch's"):
        parse_slurm_options([text])


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("240", 240), ("30:00", 30), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("2-00:00:00", 2880)],
)
def test_times(text: str, minutes: int) -> None:
    assert _read_minutes(text) == minutes
    with pytest.raises(ValueError, match="got '4h'"):
        _read_minutes("4h")


def test_a_file_that_hosts_cannot_share_is_refused(tmp_path: Path) -> None:
    db = str(tmp_path / "r.sqlite")
    for more in (["--launcher", "slurm"], ["--launcher", "ray", "--ray-address", "127.0.0.1:1"]):
        done = CliRunner().invoke(main, ["run", "--db", db, "--workers", "2", *more])
        assert done.exit_code == 2 and "several hosts cannot share" in done.output and not Path(db).exists()
    done = CliRunner().invoke(main, ["run", "--db", db, "--slurm", "time=3"])
    assert done.exit_code == 2 and "--launcher slurm" in done.output


def test_without_slurm_the_message_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="login node"):
        submit(WorkerCommand(options=(), db="x"), 2, {}, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_a_worker_ends_with_its_parent_and_keeps_the_address_to_itself(tmp_path: Path) -> None:
    """A parent that is killed leaves no worker behind; others see command lines, an address may hold a password."""
    db = tmp_path / "secret.sqlite"
    (tmp_path / "grid.py").write_text(GRID.replace("STEPS", "2000"))
    code = f"""
import time
from bench.launchers.command import WorkerCommand
child = WorkerCommand(options=("--grid", {str(tmp_path / "grid.py")!r}, "--device", "cpu"), db={str(db)!r}).start()
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert "secret" not in Path(f"/proc/{child}/cmdline").read_text()
    while not db.exists():
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}/stat").exists() and "(python) Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_that_does_not_stop_is_killed() -> None:
    stubborn = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline()
    assert stop(child, 0.3) == -9


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with served("slurm", "27817") as (variables, _):
        yield variables


def write_grid(folder: Path, steps: int) -> Path:
    grid = folder / "small.py"
    grid.write_text(GRID.replace("STEPS", str(steps)))
    return grid


def launch(grid: Path, db: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "bench.cli", "run", "--grid", str(grid), "--db", str(db), "--device", "cpu"]
    return [*command, "--launcher", "slurm", "--one-host", "--logs", str(db.parent / "logs"), *options]


@pytest.mark.slow
def test_an_array_of_a_real_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **slurm}
    grid, db = write_grid(tmp_path, 2), tmp_path / "r.sqlite"
    wrong = [*launch(grid, db, "--workers", "2", "--slurm", "partition=nowhere")]
    done = subprocess.run(wrong, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Slurm does not take the jobs" in done.stderr
    command = launch(grid, db, "--workers", "3", "--wait", "--slurm", "partition=main,time=60,cpus-per-task=1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "1 done" in done.stdout, done.stdout + done.stderr
    (folder,) = [folder for folder in (tmp_path / "logs").iterdir() if list(folder.glob("*_log.out"))]
    assert len(list(folder.glob("*_log.out"))) == 3 and folder.stat().st_mode & 0o077 == 0
    with Store(db, readonly=True) as store:
        ((run,),) = [store.runs_of(row["cell_key"]) for row in store.results()]
        assert run["status"] == "done" and len(store.images(run["id"])) == 24 and store.claims() == []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Nothing to do" in done.stdout and "Slurm job" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["time", "preemption"])
def test_a_job_that_is_stopped_is_requeued_and_goes_on(slurm: dict[str, str], tmp_path: Path, how: str) -> None:
    """At the time limit submitit requeues it, on preemption Slurm does; either way the rows are whole."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **slurm}
    # minutes where the time limit of two minutes has to end it, though a batch fits on a slow machine as well
    grid, db = write_grid(tmp_path, 40 if how == "preemption" else 300), tmp_path / "r.sqlite"
    options = "partition=spare,time=60" if how == "preemption" else "partition=spare,time=2,signal-delay-s=50"
    done = subprocess.run(
        launch(grid, db, "--workers", "1", "--slurm", options),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Come back later" in done.stdout, done.stdout + done.stderr
    job = done.stdout.split("Slurm job ")[1].split(":")[0]
    while not db.exists() or not claims(db):
        time.sleep(0.2)
    if how == "preemption":
        whole = ["sbatch", "--partition=main", "--exclusive", "--time=1", "--output=/dev/null", "--wrap", "sleep 3"]
        subprocess.run(whole, env=environment, check=True, capture_output=True)
    array = Submitted(job=job, tasks=1, folder=next((tmp_path / "logs").iterdir()))
    os.environ["SLURM_CONF"] = slurm["SLURM_CONF"]
    codes = array.wait()
    log = "".join(path.read_text() for path in array.folder.glob("*_log.out"))
    assert codes == [0] and log.count("Starting with JobEnvironment") >= 2, log
    with Store(db, readonly=True) as store:
        (row,) = store.results()
        assert len(store.runs_of(row["cell_key"])) == 1 and len(store.images(row["run_id"])) == 24


def claims(db: Path) -> int:
    with Store(db, readonly=True) as store:
        return len(store.claims())
