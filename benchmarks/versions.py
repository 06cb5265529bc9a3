"""Is a grid slower than at an earlier commit? Both in turn, each in a worktree and a process of its own.

    python benchmarks/versions.py OLD_COMMIT [--grid quickstart] [--rounds 2] [--json FILE]

Processor seconds of `bench run` into a new file, one thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from ratios import ratio, show

ROOT = Path(__file__).resolve().parents[1]


def processor_seconds(tree: Path, grid: str) -> float:
    """Of `bench run` of a grid by the code of a working tree."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.cli", "run", "--grid", grid, "--db", f"{folder}/r.sqlite"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "BENCH_CACHE_DIR": folder}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


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
            pairs = [
                (processor_seconds(ROOT, args.grid), processor_seconds(tree, args.grid)) for _ in range(args.rounds)
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    new, old = zip(*pairs, strict=True)
    show([ratio(f"{args.grid}: here over {args.commit}", new, old, "<= 1")], {"rounds": args.rounds}, args.json)


if __name__ == "__main__":
    main()
