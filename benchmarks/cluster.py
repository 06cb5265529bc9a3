"""What many workers cost: claims per second that a database bears, and the share of time that workers are busy.

The workers are real (`bench.run.runner`, claims, leases, heartbeats, their own connections); only the measurement of a
batch is a sleep, so that two cores can hold a thousand of them. They are threads of a few processes.

Run: `eval "$(tests/services/postgres.sh start /tmp/bench-postgres)"`, then in the root of the repository
`OMP_NUM_THREADS=1 python benchmarks/cluster.py --workers 64 --seconds 10`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from store_data import fresh_url  # noqa: E402

from bench.attacks.pgd_eot import PGDEOT  # noqa: E402
from bench.cell import Cell  # noqa: E402
from bench.records import ImageRecord  # noqa: E402
from bench.run import runner  # noqa: E402
from bench.run.work import Sharing  # noqa: E402
from bench.store import Store  # noqa: E402
from bench.threat import ThreatModel  # noqa: E402
from defenses.undefended import Undefended  # noqa: E402

SIZE = 4  # images a batch


class Silent:
    """A watcher that notes what was dropped."""

    def __init__(self) -> None:
        self.dropped = 0

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_step(self, attack: str, step: int) -> None: ...
    def show_images(self, done: int, total: int) -> None: ...
    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.dropped += status == "dropped"


def make_cells(cells: int, batches: int) -> list[Cell]:
    """Equal cells that differ in their seed."""
    attack, threat = PGDEOT(steps=2, step_size=0.03, eot=1), ThreatModel(epsilon=3 / 16)
    fixed: dict[str, Any] = {"dataset": "digits", "classifier": "digits_cnn", "score": None, "defense": Undefended()}
    fixed |= {"attack": attack, "threat": threat, "num_images": batches * SIZE, "batch_size": SIZE, "draws": 1}
    return [Cell(**fixed, seed=seed) for seed in range(cells)]


def pretend(seconds: float) -> None:
    """Let the runner sleep where it would measure."""
    votes = {3: 1}

    def measure(prepared: Any, model: Any, rows: slice, trace: Any, keep: Any) -> tuple[list[ImageRecord], float, int]:
        time.sleep(seconds)
        told = {"label": 3, "clean_votes": votes, "robust_votes": votes, "null_votes": votes, "distance": 0.0}
        told |= {"broken_by": None, "first_success": True, "null_first_success": True}
        return [ImageRecord(index=n, **told) for n in range(rows.start, rows.stop)], seconds, 1

    made_by = {"commit_hash": "x", "packages": {}, "precision": "float32", "weights": {}, "device": "none"}

    def describe(self: Any, cell: Cell) -> dict[str, Any]:
        return self._origins.setdefault(cell.key, made_by | {"batch_size": cell.batch_size})

    changes = {"measure_batch": measure, "find_gated": lambda cells: set(), "weights_of": lambda cell: {}}
    changes |= {"hash_own_code": lambda *things: {}, "own_code_in": lambda packages: {}}
    for name, value in changes.items():
        setattr(runner, name, value)
    runner._Worker._describe = describe  # type: ignore[method-assign]


class Loader:
    """Prepares nothing."""

    device, data_dir = torch.device("cpu"), None

    def prepare(self, cell: Cell) -> SimpleNamespace:
        """A cell that needs no network."""
        return SimpleNamespace(cell=cell, indices=range(cell.num_images), model=lambda: object())

    def check_intact(self) -> None:
        """Nothing to check."""


def work(url: str, cells: int, batches: int, seconds: float, threads: int, gate: Any, answers: Any) -> None:
    """A process with many workers: for each its start, its end and what it dropped."""
    pretend(seconds)
    todo = make_cells(cells, batches)
    told: list[tuple[float, float, int]] = []
    spent: list[float] = []  # CPU seconds when the first worker began

    def one() -> None:
        with Store(url, patience=900.0) as store:
            gate.wait()
            spent.append(time.process_time())
            begin, watcher = time.time(), Silent()
            runner.run_cells(todo, store, Loader(), watcher, grid="sleep", sharing=Sharing(retries=1))  # type: ignore[arg-type]
            told.append((begin, time.time(), watcher.dropped))

    workers = [threading.Thread(target=one) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    answers.put((told, time.process_time() - min(spent)))


def read_server_time(url: str) -> float:
    """CPU seconds of all connections that PostgreSQL has served, where it runs on this machine; NaN elsewhere.

    A connection is a child of the postmaster and lives for one transaction. Unlike claims a second, this does not
    depend on what else the machine does.
    """
    with Store(url, readonly=True) as store:
        if store.url.get_backend_name() != "postgresql":
            return float("nan")
        folder = Path(store.query("SELECT current_setting('data_directory')")[1][0][0])
    try:
        children = read_stat(int((folder / "postmaster.pid").read_text().split()[0]))[13:15]
    except OSError:
        return float("nan")
    return sum(map(int, children)) / os.sysconf("SC_CLK_TCK")


def read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def simulate(url: str, workers: int, processes: int, cells: int, batches: int, seconds: float) -> dict[str, float]:
    """Let workers share sleeping cells; what it cost."""
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(workers), context.Queue()
    shares = [workers // processes + (n < workers % processes) for n in range(processes)]
    started = [
        context.Process(target=work, args=(url, cells, batches, seconds, share, gate, answers)) for share in shares
    ]
    for process in started:
        process.start()
    before = read_server_time(url)
    given = [answers.get() for _ in started]
    told, client = [entry for entries, _ in given for entry in entries], sum(spent for _, spent in given)
    server = read_server_time(url) - before
    for process in started:
        process.join()
    with Store(url, readonly=True) as store:
        rows = store.results()
        errors = [row for row in store.progress() if row["status"] != "done"]
        assert not errors, errors
        assert len(rows) == cells and all(len(store.runs_of(row["cell_key"])) == 1 for row in rows)
        stored = [row[0] for row in store.query("SELECT stored_at FROM batches ORDER BY stored_at")[1]]
    wall = max(end for _, end, _ in told) - min(begin for begin, _, _ in told)
    span = (stored[-1] - stored[0]).total_seconds() if not isinstance(stored[0], str) else wall
    return {
        "workers": workers,
        "units": cells * batches,
        "wall s": wall,
        "claims/s": cells * (batches + 1) / wall,
        "batches/s": (cells * batches - workers) / span if span else float("nan"),
        "client CPU ms/claim": 1000 * client / (cells * (batches + 1)),
        "server CPU ms/claim": 1000 * server / (cells * (batches + 1)),
        "busy": cells * batches * seconds / (workers * wall),
        "dropped": sum(n for _, _, n in told),
    }


def main() -> None:
    """Measure what the command line asks for, and print a row a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cells", type=int, help="default: one for each four workers")
    parser.add_argument("--batches", type=int, default=16, help="of a cell")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a batch sleeps")
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    kind = "postgresql" if os.environ.get("BENCH_TEST_POSTGRES") else "sqlite"
    print(f"{kind}, {asked.seconds} s a batch, {asked.batches} batches a cell, load {os.getloadavg()[0]:.1f}")
    for workers in asked.workers:
        rows = []
        for number in range(asked.repeats):
            with fresh_url(kind, Path(f"/tmp/bench-cluster-{os.getpid()}-{workers}-{number}.sqlite")) as url:
                Store(url).close()
                cells = asked.cells or max(1, workers // 4)
                rows.append(simulate(url, workers, min(asked.processes, workers), cells, asked.batches, asked.seconds))
        print({name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}, flush=True)


if __name__ == "__main__":
    main()
