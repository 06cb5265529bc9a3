"""How long reports take on a large database: the shipped results copied 66 times, 16,434 cells and 10^6 images.

    python benchmarks/reports.py [--copies 66] [--vary seed|data_seed|version]

Each command runs in a process of its own; a line says its seconds and its largest memory.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def enlarge(source: Path, target: Path, copies: int, vary: str) -> None:
    """Write a database with copies of every cell of another one.

    Args:
        source: a result database.
        target: the file to write.
        copies: of each cell, with it.
        vary: the column that sets the copies apart: "seed", "data_seed", or "version", of the defense.
    """
    target.write_bytes(source.read_bytes())
    subprocess.run([sys.executable, "-m", "bench.store", str(target)], cwd=ROOT, check=True)
    column = {"version": "defense_version"}.get(vary, vary)
    with sqlite3.connect(target) as connection:
        size = connection.execute("SELECT MAX(id) + 1 FROM runs").fetchone()[0]
        for table in ("cells", "runs", "batches", "images"):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            new = {
                "key": "substr(key, 1, 12) || printf('%04x', :copy)",
                "cell_key": "substr(cell_key, 1, 12) || printf('%04x', :copy)",
                "id": "id + :copy * :size",
                "run_id": "run_id + :copy * :size",
                **({column: f"{column} + 100 * :copy"} if table == "cells" else {}),
            }
            chosen = ", ".join(new.get(name, name) for name in names)
            old = {"runs": f" WHERE id < {size}", "batches": f" WHERE run_id < {size}"}
            where = old.get(
                table, old["batches"] if table == "images" else " WHERE defense_version < 100 AND seed < 100"
            )
            for copy in range(1, copies):
                connection.execute(
                    f"INSERT INTO {table} SELECT {chosen} FROM {table}{where}"
                    + (" AND data_seed < 100" if table == "cells" else ""),
                    {"copy": copy, "size": size},
                )


def measure(*arguments: str) -> str:
    """Run a command of `bench`; its seconds, those of the processor, and its largest memory."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "bench.cli", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"bench {' '.join(arguments)} ended with code {child.returncode}")
    wall, processor = time.perf_counter() - begin, used.ru_utime + used.ru_stime
    return f"{wall:6.2f} s, of the processor {processor:6.2f} s, at most {used.ru_maxrss / 1024:4.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=66)
    parser.add_argument("--vary", choices=("seed", "data_seed", "version"), default="seed")
    parser.add_argument("--keep", type=Path, help="Write the database here and keep it.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.keep or Path(folder) / "large.sqlite"
        enlarge(ROOT / "results.sqlite", path, given.copies, given.vary)
        with sqlite3.connect(path) as connection:
            cells, images = (connection.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in ("cells", "images"))
        print(f"{cells} cells, {images} images, copies by {given.vary}")
        for options in (["--grid", "cifar10_small"], [], ["--all"]):
            print(f"report {' '.join(options):22s} {measure('report', '--db', str(path), *options)}")
        print(f"view --bundle           {measure('view', '--db', str(path), '--bundle', str(Path(folder) / 'site'))}")


if __name__ == "__main__":
    main()
