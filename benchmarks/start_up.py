"""How long commands take to start, beside an import of torch: processor seconds of a process of its own, in turn.

python benchmarks/start_up.py [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ratios import ratio, show

ROOT = Path(__file__).resolve().parents[1]
BENCH = (sys.executable, "-m", "bench.cli")
TORCH = "import torch"
COMMANDS: dict[str, Sequence[str]] = {
    TORCH: (sys.executable, "-c", "import torch"),
    "bench --help": (*BENCH, "--help"),
    "bench list defenses": (*BENCH, "list", "defenses"),
    "bench report --grid digits_attacks": (*BENCH, "report", "--grid", "digits_attacks"),
    "bench status --grid digits_attacks": (*BENCH, "status", "--grid", "digits_attacks"),
    "bench run, no cell left to run": (*BENCH, "run", "--grid", "digits_attacks"),
}


def processor_seconds(command: Sequence[str], database: Path) -> float:
    """Of a command and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "BENCH_DB": str(database)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        database = Path(shutil.copy(ROOT / "results.sqlite", folder))
        for _ in range(args.rounds + 1):
            for name, command in COMMANDS.items():
                found[name].append(processor_seconds(command, database))
    timed = {name: seconds[1:] for name, seconds in found.items()}  # the first round fills the disk's cache
    rows = [ratio(f"{name} over {TORCH}", timed[name], timed[TORCH]) for name in list(COMMANDS)[1:]]
    show(rows, {"rounds": args.rounds}, args.json)


if __name__ == "__main__":
    main()
