"""The table of benchmarks/frontier.py: every attack beside gold, on the images that both saw."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from bench.statistics import paired_difference

ALL, LATER = "all purifiers", "all purifiers, later images"
APART = "randomized_smoothing"  # no purifier: it asks the classifier alone, and nearly always falls


@dataclass(frozen=True)
class Line:
    """What is known of one attack on one defense, on the images that gold saw too."""

    defense: str
    method: str
    pairs: int
    seeds: int
    evaluations: float
    robust: float
    share: float
    difference: tuple[float, float, float]


def lines(db: sqlite3.Connection, dataset: str, order: Sequence[str], later: Set[int] = frozenset()) -> list[Line]:
    """Every attack beside gold, paired by image and seed; ALL pools the purifiers where there are several.

    Args:
        db: with the table `measured`.
        dataset: of the rows.
        order: of the attacks.
        later: numbers of the images that no setting was chosen on; LATER pools the purifiers on these.
    """
    rows: dict[tuple[str, str], dict[tuple[str, int, int], tuple[int, int, float]]] = {}
    query = "SELECT defense, method, image, seed, right, draws, evaluations FROM measured WHERE dataset = ?"
    for defense, method, image, seed, *values in db.execute(query, (dataset,)):
        pooled = () if defense == APART else (ALL, LATER) if image in later else (ALL,)
        for name in (defense, *pooled):
            rows.setdefault((name, method), {})[(defense, image, seed)] = tuple(values)
    found = []
    for (defense, method), mine in rows.items():
        gold = rows.get((defense, "gold"), {})
        pairs = sorted(mine.keys() & gold.keys())
        if not pairs or (defense in (ALL, LATER) and len({pair[0] for pair in pairs}) < 2):
            continue
        (a, n, cost), (b, m, dear) = (np.array([side[p] for p in pairs]).T for side in (mine, gold))
        mean = float(_grouped(pairs, a / n).mean())
        difference = _by_image(pairs, a / n - b / m) if method != "gold" else (0.0, 0.0, 0.0)
        found.append(
            Line(
                defense,
                method,
                len(pairs),
                len({p[2] for p in pairs}),
                float(cost.mean()),
                mean,
                float(cost.mean() / dear.mean()),
                difference,
            )  # fmt: skip
        )
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda line: (line.defense in (ALL, LATER), line.defense, places.get(line.method, 99)))


def _by_image(pairs: Sequence[tuple[str, int, int]], differences: np.ndarray) -> tuple[float, float, float]:
    """Mean difference and its interval; the seeds of one image on one defense are one observation."""
    means = _grouped(pairs, differences)
    scale = 10_000  # shares as counts, as the test takes them
    ahead, behind = (np.rint(scale * np.clip(sign * means, 0, 1)).astype(int) for sign in (1, -1))
    return paired_difference(ahead, scale, behind, scale)


def _grouped(pairs: Sequence[tuple[str, int, int]], values: np.ndarray) -> np.ndarray:
    """The mean over the seeds of each image on each defense."""
    groups: dict[tuple[str, int], list[float]] = {}
    for (defense, image, _), value in zip(pairs, values, strict=True):
        groups.setdefault((defense, image), []).append(float(value))
    return np.array([np.mean(each) for each in groups.values()])


def table(found: Sequence[Line]) -> str:
    """Markdown: `strong` beside gold, defense by defense, then what each attack leaves more than gold."""
    return "\n\n".join(part for part in (_strong(found), _attacks(found)) if part)


def _strong(found: Sequence[Line]) -> str:
    head = (
        "| Defense | Pairs (seeds) | strong | gold | strong - gold | strong's evaluations an image | gold's | share |"
    )
    text = [head, "| :-- | --: | --: | --: | --: | --: | --: | --: |"]
    by_name = {(line.defense, line.method): line for line in found}
    for line in found:
        if line.method != "strong":
            continue
        gold, robust = by_name[line.defense, "gold"], 100 * line.robust
        both = f"{robust:.1f} | {robust - 100 * line.difference[0]:.1f}"  # gold's on the pairs that both saw
        text.append(
            f"| {line.defense} | {line.pairs} ({line.seeds}) | {both} | {_points(line)} | "
            f"{line.evaluations:,.0f} | {gold.evaluations:,.0f} | {100 * line.share:.1f} % |"
        )
    return "\n".join(text)


def _attacks(found: Sequence[Line]) -> str:
    """Defenses in columns, those alone that another attack than `strong` and gold met."""
    shown = [line for line in found if line.method not in ("strong", "gold") and line.defense != LATER]
    defenses = list(dict.fromkeys(line.defense for line in shown))
    if not shown:
        return ""
    cells = {(line.defense, line.method): line for line in found}
    text = [f"| Attack | of gold's cost | {' | '.join(defenses)} |", f"| :-- | --: |{' --: |' * len(defenses)}"]
    for method in dict.fromkeys(line.method for line in found if line.method != "gold"):
        mine = [cells.get((defense, method)) for defense in defenses]
        shares = [line.share for line in mine if line is not None]
        entries = ["" if line is None else _points(line) for line in mine]
        text.append(f"| {method} | {100 * np.median(shares):.1f} % | {' | '.join(entries)} |")
    return "\n".join(text)


def _points(line: Line) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in line.difference))
