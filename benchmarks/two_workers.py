"""Does a second worker help? One worker and several on the same grid, in turn, one thread each: wall and CPU seconds.

Run on a machine that does nothing else: `python benchmarks/two_workers.py --rounds 3`. On a busy one the wall-clock
ratio says nothing; then look at the CPU seconds of the busiest worker, which is what a free core would need.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.store import Store  # noqa: E402


def run(grid: str, workers: int, images: int | None) -> tuple[float, list[float]]:
    """Run a grid into a new file with so many workers: wall seconds, CPU seconds of each worker."""
    with tempfile.TemporaryDirectory() as folder:
        db = str(Path(folder) / "r.sqlite")
        Store(db).close()
        command = [sys.executable, "-m", "bench.cli", "worker", "--grid", grid, "--db", db, "--device", "cpu"]
        command += ["--num-images", str(images)] if images else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        begin = time.perf_counter()
        started = [
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) for _ in range(workers)
        ]
        spent = []
        for child in started:
            _, status, usage = os.wait4(child.pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0, "a worker failed"
            spent.append(usage.ru_utime + usage.ru_stime)
        return time.perf_counter() - begin, spent


def main() -> None:
    """Measure in turn, and print each run and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", default="quickstart")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num-images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    walls: dict[int, list[float]] = {1: [], asked.workers: []}
    busiest: dict[int, list[float]] = {1: [], asked.workers: []}
    for _ in range(asked.rounds):
        for workers in walls:
            load = os.getloadavg()[0]
            wall, spent = run(asked.grid, workers, asked.num_images)
            walls[workers].append(wall)
            busiest[workers].append(max(spent))
            told = ", ".join(f"{seconds:.0f}" for seconds in spent)
            print(f"{workers} workers: {wall:.0f} s, CPU seconds {told} (load {load:.1f} before)", flush=True)
    for name, values in (("wall", walls), ("CPU of the busiest worker", busiest)):
        ratio = statistics.median(values[asked.workers]) / statistics.median(values[1])
        print(f"{name}: {ratio:.2f} of one worker's")


if __name__ == "__main__":
    main()
