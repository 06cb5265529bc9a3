"""Is the forecast right? It is made, the same cells are run, and the two are compared: seconds and network evaluations.

    OMP_NUM_THREADS=1 python benchmarks/forecast.py --grid quickstart --num-images 32
    OMP_NUM_THREADS=1 python benchmarks/forecast.py --grid cifar10_small --num-images 4 --attack-precision bfloat16 \
        --filter attack=pgd_eot

Prints a line a cell, then JSON. The bill is the time of the whole run: attack, judge, gates, and what lies between.
Seconds are those of this process on a CPU, as other work on the machine makes those of the wall longer at any moment,
and those of the wall on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from bench.cell import Cell  # noqa: E402
from bench.commands.choose import chosen  # noqa: E402
from bench.grids import load_grid  # noqa: E402
from bench.run.bill import Done, price_groups  # noqa: E402
from bench.run.prepare import Loader  # noqa: E402
from bench.run.rates import Here  # noqa: E402
from bench.run.runner import run_cells  # noqa: E402
from bench.store import Store  # noqa: E402


@dataclass
class Compared:
    """A cell, or all of them.

    Attributes:
        what: its words.
        forecast: seconds.
        bill: seconds of the run, by the clock of the forecast.
        wall: seconds of the run.
        said: network evaluations of attack and judge in the forecast.
        spent: those of the run.
    """

    what: str
    forecast: float = 0.0
    bill: float = 0.0
    wall: float = 0.0
    said: float = 0.0
    spent: float = 0.0

    def line(self) -> str:
        """As a person reads it."""
        ratio, work = self.forecast / self.bill, self.said / max(1, self.spent)
        return (
            f"{self.forecast:8.1f} s said, {self.bill:8.1f} s spent ({self.wall:8.1f} s of the wall), ratio "
            f"{ratio:.2f}; evaluations {work:.2f}  {self.what}"
        )


class Silent:
    """A watcher that says what failed."""

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """See `Watcher`."""

    def show_images(self, done: int, total: int) -> None:
        """See `Watcher`."""

    def show_step(self, attack: str, step: int) -> None:
        """See `Watcher`."""

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """See `Watcher`."""
        if status == "failed":
            print(f"{cell}: {text}", file=sys.stderr)


def compare(cells: list[Cell], grid: str, loader: Loader) -> list[Compared]:
    """Forecast and run each group of cells that differ in seeds alone."""
    gates, label = load_grid(grid).gates, Path(grid).stem
    clock = time.process_time if loader.device.type == "cpu" else time.perf_counter
    known = list(price_groups(cells, Done(None), Here(loader, clock), gates))
    found = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "bill.sqlite") as store:
        for priced in known:
            if priced.missing or priced.error:
                print(f"{priced.group.line}: {priced.error or ', '.join(priced.missing)}", file=sys.stderr)
                continue
            wall, begin = time.perf_counter(), clock()
            outcome = run_cells(priced.group.cells, store, loader, Silent(), grid=label, gates=gates)
            one = Compared(
                what=priced.group.line,
                forecast=priced.cost.seconds,
                bill=clock() - begin,
                wall=time.perf_counter() - wall,
                said=priced.cost.units,
                spent=sum(store.latest_done(cell.key)["network_evaluations"] for cell in outcome.done),
            )
            print(one.line(), flush=True)
            found.append(one)
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="quickstart")
    parser.add_argument("--filter", action="append", default=[], metavar="COLUMN=VALUE")
    parser.add_argument("--num-images", type=int)
    parser.add_argument("--attack-precision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir", type=Path)
    args = parser.parse_args()
    precision = args.attack_precision
    cells = chosen(args.grid, filters=args.filter, attack_precision=precision, num_images=args.num_images)
    found = compare(cells, args.grid, Loader(torch.device(args.device), args.data_dir))
    total = Compared(what=f"all {len(cells)} cells")
    for one in found:
        for name in ("forecast", "bill", "wall", "said", "spent"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
    print(total.line())
    print(json.dumps([asdict(one) for one in (*found, total)], indent=1))


if __name__ == "__main__":
    main()
