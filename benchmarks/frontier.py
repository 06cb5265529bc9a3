"""Robust accuracy against what an attack costs: gold, strong and the literature's attacks on the same images.

    python benchmarks/frontier.py --db frontier.sqlite          # measures what is missing
    python benchmarks/frontier.py --db frontier.sqlite --only gold strong --defenses diffpure_sde --images 32
    python benchmarks/frontier.py --db frontier.sqlite --report          # prints the table
    python benchmarks/frontier.py --db frontier.sqlite --write docs      # into docs/attacks.md, and its figure

A unit of work is an attack on a few images of a defense; each is stored when it is done, and a run that was stopped
goes on with the next. Evaluations are those of the attack alone: passes of the score network, forward and backward,
for each image. Every image is judged on 100 fresh draws, the same for all attacks. All of it takes days on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
import torch

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
from bench.grids.cifar10_small import cell as cifar_cell
from bench.grids.cifar10_small import contrastive, diffpure
from bench.grids.digits_attacks import DEFENSES
from bench.grids.digits_attacks import cell as digits_cell
from bench.run.meter import Meter
from bench.run.prepare import Loader
from bench.statistics import paired_difference, two_level_bootstrap
from bench.threat import ThreatModel
from defenses import Defense
from defenses.diffpure_sde import DiffPureSDE
from defenses.freqpure import FreqPure

DRAWS = 100
TOGETHER = 32  # images of a unit; a batch-coupled defense takes all of them
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
        c for c in cells(args.dataset, args.images) if args.defenses is None or c.defense.name in args.defenses
    ]
    chosen = [m for m in methods(1.0) if args.only is None or m in args.only]
    front, rest = [m for m in chosen if m in ("strong", "gold")], [m for m in chosen if m not in ("strong", "gold")]
    for group in (front, rest):
        for seed in range(args.seeds):
            for first in range(0, args.images, TOGETHER):
                for cell in all_cells:
                    whole = cell.defense.batch_coupled
                    if whole and first:
                        continue
                    for method in group:
                        yield Unit(
                            cell, method, seed, slice(0, args.images) if whole else slice(first, first + TOGETHER)
                        )


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
    with Meter(ready.counted(model)) as meter:
        try:
            threat: ThreatModel = cell.threat
            found = attack.perturb(model, images.clone(), labels.clone(), ids.clone(), threat, unit.seed, trace=Trace())
        except (NoSuchAttack, ValueError) as error:
            print(f"{unit.key}: {error}", flush=True)
            return
        spent = meter.take() / len(images)
    seconds = (time.perf_counter() - begin) / len(images)
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


@dataclass(frozen=True)
class Line:
    """What is known of one attack on one defense, on the images that gold saw too."""

    defense: str
    method: str
    pairs: int
    seeds: int
    evaluations: float
    robust: tuple[float, float, float]
    share: float
    difference: tuple[float, float, float]


def lines(db: sqlite3.Connection, dataset: str) -> list[Line]:
    """Every attack beside gold, paired by image and seed; ALL pools the defenses that the attack was run on."""
    rows: dict[tuple[str, str], dict[tuple[str, int, int], tuple[int, int, float]]] = {}
    query = "SELECT defense, method, image, seed, right, draws, evaluations FROM measured WHERE dataset = ?"
    for defense, method, image, seed, *values in db.execute(query, (dataset,)):
        for name in (defense, ALL):
            rows.setdefault((name, method), {})[(defense, image, seed)] = tuple(values)
    found = []
    for (defense, method), mine in rows.items():
        gold = rows.get((defense, "gold"), {})
        pairs = sorted(mine.keys() & gold.keys())
        if not pairs:
            continue
        (a, n, cost), (b, m, dear) = (np.array([side[p] for p in pairs]).T for side in (mine, gold))
        mean = float((a / n).mean())
        difference = _by_image(pairs, a / n - b / m) if method != "gold" else (0.0, 0.0, 0.0)
        low, high = two_level_bootstrap(a.astype(int), n.astype(int))
        found.append(
            Line(
                defense,
                method,
                len(pairs),
                len({p[2] for p in pairs}),
                float(cost.mean()),
                (mean, low, high),
                float(cost.mean() / dear.mean()),
                difference,
            )  # fmt: skip
        )
    order = {name: place for place, name in enumerate(methods(1.0))}
    return sorted(found, key=lambda line: (line.defense == ALL, line.defense, order.get(line.method, 99)))


ALL = "all"


def _by_image(pairs: Sequence[tuple[str, int, int]], differences: np.ndarray) -> tuple[float, float, float]:
    """Mean difference and its interval; the seeds of one image on one defense are one observation."""
    groups: dict[tuple[str, int], list[float]] = {}
    for (defense, image, _), value in zip(pairs, differences, strict=True):
        groups.setdefault((defense, image), []).append(float(value))
    means = np.array([np.mean(values) for values in groups.values()])
    scale = 10_000  # shares as counts, as the test takes them
    ahead, behind = (np.rint(scale * np.clip(sign * means, 0, 1)).astype(int) for sign in (1, -1))
    return paired_difference(ahead, scale, behind, scale)


def table(found: Sequence[Line]) -> str:
    """Markdown."""
    head = "| Defense | Attack | Pairs (seeds) | Evaluations an image | of gold's | Robust | minus gold's |"
    text = [head, "| :-- | :-- | --: | --: | --: | --: | --: |"]
    for line in found:
        robust, low, high = (100 * value for value in line.robust)
        minus = (
            "" if line.method == "gold" else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in line.difference))
        )
        text.append(
            f"| {line.defense} | {line.method} | {line.pairs} ({line.seeds}) | {line.evaluations:,.0f} | "
            f"{100 * line.share:.1f} % | {robust:.1f} [{low:.1f}, {high:.1f}] | {minus} |"
        )
    return "\n".join(text)


WIDTH, HEIGHT, LEFT, BOTTOM = 780, 380, 60, 50
COLOURS = {"strong": "#d55e00", "gold": "#0072b2"}


def figure(found: Sequence[Line], title: str) -> str:
    """SVG: robust accuracy minus gold's against evaluations as a share of gold's, of all defenses measured."""
    shown = [line for line in found if line.defense == ALL]
    top = max([5.0, *(100 * line.difference[2] for line in shown)])
    bottom = min([-5.0, *(100 * line.difference[1] for line in shown)])
    left = math.floor(math.log10(min([0.01, *(line.share for line in shown)])))

    def x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - 180) * (math.log10(share) - left) / (0.3 - left)

    def y(points: float) -> float:
        return 40 + (HEIGHT - 40 - BOTTOM) * (top - points) / (top - bottom)

    parts = [f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>']
    for points in range(math.ceil(bottom / 5) * 5, math.floor(top / 5) * 5 + 1, 5):
        stroke = "#000" if points == 0 else "#ddd"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 180}" y1="{y(points):.1f}" y2="{y(points):.1f}" stroke="{stroke}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y(points) + 4:.1f}" text-anchor="end">{points:+d}</text>')
    for power in range(left, 1):
        label = f"{100 * 10.0**power:g} %"
        parts.append(f'<text x="{x(10.0**power):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{label}</text>')
    for line in shown:
        colour = next((c for name, c in COLOURS.items() if line.method.startswith(name)), "#555")
        middle, low, high = (y(100 * value) for value in line.difference)
        at = x(line.share)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{at + 7:.1f}" y="{middle + 4:.1f}" fill="{colour}">{escape(line.method)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - 180) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        "network evaluations of the attack, share of gold's</text>"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def write(docs: Path, found: Sequence[Line], dataset: str) -> None:
    """Put table and figure into the documentation, between the marks of docs/attacks.md."""
    page = docs / "attacks.md"
    begin, end = "<!-- frontier -->", "<!-- /frontier -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{table(found)}\n\n{end}{after}")
    title = f"Robust accuracy minus gold's, points ({dataset})"
    (docs / "frontier").with_suffix(".svg").write_text(figure(found, title))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="frontier.sqlite")
    parser.add_argument("--dataset", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--images", type=int, default=64, help="64 on digits, 32 on CIFAR-10 for the table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", help=f"of: {', '.join(methods(1.0))}")
    parser.add_argument("--defenses", nargs="+", help="registered names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="print the table of what was measured")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="put table and figure into this folder's page")
    args = parser.parse_args()
    db = sqlite3.connect(args.db)
    db.execute(TABLE)
    if args.report or args.write:
        found = lines(db, args.dataset)
        if args.write:
            write(args.write, found, args.dataset)
        print(table(found))
        return
    torch.set_num_threads(args.threads)
    loader = Loader(torch.device(args.device))
    for unit in units(args):
        measure(unit, db, loader)


if __name__ == "__main__":
    main()
