"""The table of docs/performance.md on attacks in bfloat16: paired tests of the grid `attack_precision`."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bench.commands.titles import describe
from bench.grids import grid_cells
from bench.records import ImageRecord
from bench.statistics import compare, is_established, paired_difference
from bench.store import Store

FOLDER = Path(__file__).resolve().parent
DATABASE = FOLDER.parent / "results.sqlite"
images_of = runpy.run_path(str(FOLDER / "claims.py"))["images_of"]

Pair = tuple[Sequence[ImageRecord], Sequence[ImageRecord]]  # the same images after the attack in float32, in bfloat16
TITLES = {"digits": "digits", "cifar10": "CIFAR-10"}


def table() -> str:
    """A line for each defense and gradient that ran in both, then one for all of a data set."""
    lines = [
        "| Data | Defense | Gradient | float32 | bfloat16 | Difference, 95 % | McNemar p | Cosine | of two draws |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: |",
    ]
    cells, together, established = list(grid_cells("attack_precision")), dict[str, list[Pair]](), 0
    with Store(DATABASE, readonly=True) as store:
        for full, low in zip(cells[::2], cells[1::2], strict=True):
            pair = images_of(store, full), images_of(store, low)
            if None in pair:
                continue
            together.setdefault(full.dataset, []).append(pair)
            c = compare(*pair)
            established += is_established(c)
            words = describe(full.defense, ("solver", "per_image"))
            first, second = cosines(store.latest_done(low.key)["gates"])
            lines.append(
                f"| {TITLES[full.dataset]} | {words} | {full.threat.gradient} | {c['a_accuracy']:.1f} | "
                f"{c['b_accuracy']:.1f} | {c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}] | "
                f"{c['p_value']:.2g} | {first} | {second} |"
            )
    for dataset, pairs in together.items():
        mean, low_end, high_end = (100 * end for end in pooled(pairs))
        lines.append(
            f"| {TITLES[dataset]} | **all {len(pairs)}** | | | | {mean:+.2f} [{low_end:+.2f}, {high_end:+.2f}] | | | |"
        )
    total = sum(map(len, together.values()))
    told = f"{established} of the {total} differences are established by themselves."
    if total < len(cells) // 2:
        told += f" {len(cells) // 2 - total} more pairs of the grid have not run."
    return "\n".join([*lines, "", told])


def cosines(gates: Iterable[dict[str, str]]) -> tuple[str, str]:
    """What the gate `precision_cosine` says: bfloat16's gradient against float32's, and two draws'."""
    reason = next(gate["reason"] for gate in gates if gate["gate"] == "precision_cosine")
    found = re.findall(r"(?:cosine|one) of (-?\d+\.\d+)", reason)
    return (found[0], f"{float(found[1]):.2f}") if len(found) == 2 else ("", "")


def pooled(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Mean difference over defenses and images, with its interval; an image's defenses are one observation."""
    sides = [np.array([[_right(r) for r in sorted(pair[i], key=lambda r: r.index)] for pair in pairs]) for i in (0, 1)]
    (a, n), (b, m) = (side.sum(axis=0).T for side in sides)
    return paired_difference(a, n, b, m)


def _right(record: ImageRecord) -> tuple[int, int]:
    return record.robust_votes.get(record.label, 0), sum(record.robust_votes.values())


BLOCKS = {"attack_precision": table}
