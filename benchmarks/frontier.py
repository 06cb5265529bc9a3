"""Robust accuracy against what an attack costs: gold, strong and the literature's attacks on the same images.

    python benchmarks/frontier.py --db frontier.sqlite          # measures what is missing
    python benchmarks/frontier.py --db frontier.sqlite --only gold strong --defenses diffpure_sde --images 32
    python benchmarks/frontier.py --db frontier.sqlite --report          # prints the table
    python benchmarks/frontier.py --db frontier.sqlite --write docs      # into docs/attacks.md, and its figure

A unit of work is an attack on a few images of a defense; each is stored when it is done, and a run that was stopped
goes on with the next. A new database begins with the rows of docs/frontier.csv, unless --fresh. Evaluations are those
of the attack alone: passes of the score network, forward and backward, for each image. Every image is judged on 100
fresh draws, the same for all attacks. All of it takes days on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from frontier_figure import figure
from frontier_table import Line, lines, table

from bench.attacks import Attack
from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.autoattack_rand import AutoAttackRand
from bench.attacks.base import JUDGE_ROWS, NoSuchAttack, Oracle, Trace
from bench.attacks.diffattack import DiffAttack
from bench.attacks.diffhammer import DiffHammer
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.strong import Strong
from bench.cell import Cell
from bench.datasets import load_dataset, subset
from bench.grids.cifar10_small import cell as cifar_cell
from bench.grids.cifar10_small import contrastive, diffpure
from bench.grids.digits_attacks import DEFENSES
from bench.grids.digits_attacks import cell as digits_cell
from bench.run.meter import Meter
from bench.run.prepare import Loader
from bench.threat import ThreatModel
from defenses import Defense
from defenses.diffpure_sde import DiffPureSDE
from defenses.freqpure import FreqPure

DRAWS = 100
LATER_FROM = 32
FIRST = ("diffpure_sde", "diffpure_ode", "gdmp", "likelihood_maximization")
LEE_KIM = 0.007 * 255 / 8  # a step's length over epsilon
FREQPURE = FreqPure(radius=2.5, steps=10, runs=1)  # digits' settings
TABLE = """CREATE TABLE IF NOT EXISTS measured (
    dataset TEXT, defense TEXT, method TEXT, seed INTEGER, image INTEGER, images INTEGER,
    right INTEGER, draws INTEGER, evaluations REAL, seconds REAL, settings TEXT,
    PRIMARY KEY (dataset, defense, method, seed, image, images))"""


def methods(epsilon: float) -> dict[str, Attack]:
    """Label -> attack, those compared first in front."""
    step = LEE_KIM * epsilon
    found: dict[str, Attack] = {
        "strong": Strong(),
        "gold": Gold(),
        "strong, first 20, longest 160": Strong(first=20, longest=160),
    }
    for eot, steps in ((1, 200), (20, 20), (4, 200), (20, 200)):
        found[f"PGD {steps}, EOT {eot}"] = PGDEOT(steps=steps, step_size=step, eot=eot, start="zero")
    found["MEFA"] = PGDEOT(steps=100, step_size=epsilon / 4, eot=20, start="zero")
    for eot in (1, 20):
        found[f"APGD 100, EOT {eot}"] = APGDEOT(steps=100, eot=eot, loss="margin")
    found["DiffHammer"] = DiffHammer()
    found["DiffAttack"] = DiffAttack(step_size=step)
    found["AutoAttack rand"] = AutoAttackRand()
    return found


def cells(dataset: str, images: int) -> Iterator[Cell]:
    """A cell for every stochastic defense, those compared first in front, the batch-coupled ones last."""
    if dataset == "digits":
        known = [d for d in (*DEFENSES, FREQPURE) if d.stochastic and "exact" in d.gradients]
        order = sorted(known, key=lambda d: (d.batch_coupled, FIRST.index(d.name) if d.name in FIRST else 9))
        made = (digits_cell(defense, Strong(), "exact") for defense in order)
    else:
        chosen: tuple[Defense, ...] = (diffpure(0.1), DiffPureSDE(t=0.1, steps=20), contrastive(0.1))
        made = (cifar_cell(defense, "exact", attack=Strong()) for defense in chosen)
    for cell in made:
        yield replace(cell, num_images=images)


@dataclass(frozen=True)
class Unit:
    """An attack on some images of a cell."""

    cell: Cell
    method: str
    seed: int
    rows: slice

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What the table calls it, without the image."""
        return self.cell.dataset, name_of(self.cell.defense), self.method, self.seed


def name_of(defense: Defense) -> str:
    """Registered name, told from its siblings."""
    return f"{defense.name}, per image" if getattr(defense, "per_image", False) else defense.name


def units(args: argparse.Namespace) -> Iterator[Unit]:
    """All of it, so that what is compared is measured in turn: images outside, then seeds, defenses, attacks."""
    all_cells = [
        c
        for c in cells(args.dataset, args.images)
        if args.defenses is None or {c.defense.name, name_of(c.defense)} & set(args.defenses)
    ]
    chosen = [m for m in methods(1.0) if args.only is None or m in args.only]
    front, rest = [m for m in chosen if m in ("strong", "gold")], [m for m in chosen if m not in ("strong", "gold")]
    for group in (front, rest):
        for seed in range(args.seeds):
            for first in range(0, args.images, args.together):
                for cell in all_cells:
                    whole = cell.defense.batch_coupled
                    if whole and first:
                        continue
                    for method in group:
                        rows = slice(0, args.images) if whole else slice(first, first + args.together)
                        yield Unit(cell, method, seed, rows)


def measure(unit: Unit, db: sqlite3.Connection, loader: Loader) -> None:
    """Attack, judge and store."""
    cell = unit.cell
    attack = methods(cell.threat.epsilon)[unit.method]
    ready = loader.prepare(replace(cell, attack=attack))
    images, labels, ids = ready.batch(unit.rows)
    whole = len(images) if cell.defense.batch_coupled else 0  # then how many there are is part of the answer
    have = db.execute(
        "SELECT count(*) FROM measured WHERE dataset=? AND defense=? AND method=? AND seed=? AND images=?"
        f" AND image IN ({','.join(map(str, ids.tolist()))})",
        (*unit.key, whole),
    ).fetchone()[0]
    if have == len(images):
        return
    model, begin = ready.model(), time.perf_counter()
    with Meter(*ready.counted(model)) as meter:
        try:
            threat: ThreatModel = cell.threat
            found = attack.perturb(model, images.clone(), labels.clone(), ids.clone(), threat, unit.seed, trace=Trace())
        except (NoSuchAttack, ValueError) as error:
            print(f"{unit.key}: {error}", flush=True)
            return
        spent = round(meter.take() / len(images), 1)
    seconds = round((time.perf_counter() - begin) / len(images), 2)
    found = threat.project(found.detach(), images)
    judge = Oracle(model, labels, ids, unit.seed, eot=DRAWS, role="judge:robust", rows=JUDGE_ROWS)
    right = judge.evaluate(found, 0).correct.sum(0).tolist()
    settings = json.dumps({"attack": attack.params(), "defense": cell.defense.params()}, sort_keys=True)
    with db:
        db.executemany(
            "INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (*unit.key, i, whole, r, DRAWS, spent, seconds, settings)
                for i, r in zip(ids.tolist(), right, strict=True)
            ],
        )
    mean = 100 * sum(right) / DRAWS / len(right)
    print(f"{time.strftime('%H:%M')} {unit.key} images {unit.rows.start}-{unit.rows.stop - 1}: {mean:.1f} %, "
          f"{spent:.0f} evaluations and {seconds:.1f} s an image", flush=True)  # fmt: skip


def later(dataset: str) -> frozenset[int]:
    """Numbers of the images after the first 32 of the sample, on some of which the settings of `strong` were chosen."""
    if dataset != "digits":
        return frozenset()
    first = next(cells(dataset, LATER_FROM))
    labels = load_dataset(dataset).labels
    every, chosen = (subset(labels, count, first.data_seed).tolist() for count in (len(labels), LATER_FROM))
    return frozenset(every) - frozenset(chosen)


def found(db: sqlite3.Connection, dataset: str) -> list[Line]:
    """All lines of the table."""
    return lines(db, dataset, list(methods(1.0)), later(dataset))


ROWS = Path(__file__).resolve().parents[1] / "docs" / "frontier.csv"
COLUMNS = ("dataset", "defense", "method", "seed", "image", "images", "right", "draws", "evaluations", "seconds")


def open_rows(file: str, fresh: bool) -> sqlite3.Connection:
    """The database; a new one begins with the committed rows."""
    db = sqlite3.connect(file)
    db.execute(TABLE)
    if ROWS.is_file() and not fresh and not db.execute("SELECT count(*) FROM measured").fetchone()[0]:
        with db, ROWS.open(newline="") as lines_in:
            marks = ", ".join("?" * len(COLUMNS))
            rows = [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(lines_in)]
            db.executemany(f"INSERT INTO measured ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
    return db


def keep_rows(db: sqlite3.Connection, file: Path) -> None:
    """What each image answered, as CSV: the table can be made again, and continued, from it."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(db.execute(f"SELECT {', '.join(COLUMNS)} FROM measured ORDER BY 1, 2, 3, 4, 5"))


def write(docs: Path, shown: Sequence[Line], dataset: str) -> None:
    """Put table and figure into the documentation, between the marks of docs/attacks.md."""
    page = docs / "attacks.md"
    begin, end = "<!-- by benchmarks/frontier.py -->", "<!-- /by benchmarks/frontier.py -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{table(shown)}\n\n{end}{after}")
    title = f"Robust accuracy minus gold's, points: {dataset}"
    (docs / "frontier").with_suffix(".svg").write_text(figure(shown, title))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="frontier.sqlite")
    parser.add_argument("--fresh", action="store_true", help="begin without the rows of docs/frontier.csv")
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--images", type=int, default=64, help="64 on digits, 32 on CIFAR-10 for the table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--together", type=int, default=32, help="images of a unit; a batch-coupled defense takes all of them"
    )
    parser.add_argument("--only", nargs="+", help=f"of: {', '.join(methods(1.0))}")
    parser.add_argument("--defenses", nargs="+", help="registered names, or 'NAME, per image'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="print the table of what was measured")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="put table and figure into this folder's page")
    args = parser.parse_args()
    db = open_rows(args.db, args.fresh)
    if args.report or args.write:
        shown = found(db, args.dataset)
        if args.write:
            write(args.write, shown, args.dataset)
            keep_rows(db, args.write / ROWS.name)
        print(table(shown))
        return
    torch.set_num_threads(args.threads)
    loader = Loader(torch.device(args.device))
    for unit in units(args):
        measure(unit, db, loader)


if __name__ == "__main__":
    main()
