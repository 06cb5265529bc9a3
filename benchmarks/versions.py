"""Is a grid slower than at an earlier commit? Both in turn, each in a worktree and a process of its own.

    python benchmarks/versions.py OLD_COMMIT [--grid quickstart] [--rounds 2] [--json FILE]

Processor seconds of `bench run` into a new file, one thread; and the seconds of attacks and judges alone, as the rows
say: what else a version does for a cell, its validity gates above all, is the difference.
"""

from __future__ import annotations

import argparse
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from ratios import ratio, show

ROOT = Path(__file__).resolve().parents[1]


def run_grid(tree: Path, grid: str) -> tuple[float, float]:
    """Processor seconds of `bench run` of a grid by the code of a working tree, and seconds of attacks and judges."""
    with tempfile.TemporaryDirectory() as folder:
        db = f"{folder}/r.sqlite"
        command = [sys.executable, "-m", "bench.cli", "run", "--grid", grid, "--db", db]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "BENCH_CACHE_DIR": folder}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        with closing(sqlite3.connect(db)) as connection:
            measuring = connection.execute("SELECT sum(seconds) FROM results").fetchone()[0]
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--grid", default="quickstart")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), args.commit], cwd=ROOT, check=True)
        try:
            rounds = [(run_grid(ROOT, args.grid), run_grid(tree, args.grid)) for _ in range(args.rounds)]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    found = []
    for which, what in enumerate(("the whole command", "attacks and judges")):
        new, old = zip(*((here[which], there[which]) for here, there in rounds), strict=True)
        found.append(ratio(f"{args.grid}, {what}: here over {args.commit}", new, old, "<= 1"))
    show(found, {"rounds": args.rounds}, args.json)


if __name__ == "__main__":
    main()
