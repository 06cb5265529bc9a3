"""The table of docs/attacks.md of paired tests: two attacks on one defense of the grid `digits_attacks`.

The rows of `strong` are those of `digits_defenses`.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from bench.cell import Cell
from bench.commands.titles import describe
from bench.grids import grid_cells
from bench.statistics import compare, is_established
from bench.store import Store

FOLDER = Path(__file__).resolve().parent
images_of = runpy.run_path(str(FOLDER / "claims.py"))["images_of"]

Attacked = tuple[str, str]  # name of an attack, kind of gradient
PGD = "pgd_eot"
QUESTIONS: dict[str, tuple[Attacked, Attacked]] = {
    "transfer - straight-through": ((PGD, "transfer"), (PGD, "straight_through")),
    "straight-through - exact": ((PGD, "straight_through"), (PGD, "exact")),
    "exact - held constant": ((PGD, "exact"), (PGD, "guidance_detached")),
    "PGD exact - APGD": ((PGD, "exact"), ("apgd_eot", "exact")),
    "PGD exact - `gold`": ((PGD, "exact"), ("gold", "exact")),
    "`gold` - `strong`": (("gold", "exact"), ("strong", "exact")),
}
"""Column -> two attacks: what the first leaves minus what the second does."""


def pairs() -> str:
    """A line for each defense with a score network; of a column's two attacks, how much more the first leaves."""
    defenses: dict[str, dict[Attacked, Cell]] = {}
    asked = [cell for cell in grid_cells("digits_attacks") if cell.score]
    shown = {cell.defense for cell in asked}
    for cell in (*asked, *(cell for cell in grid_cells("digits_defenses") if cell.defense in shown)):
        name = describe(cell.defense, ("per_image",))
        defenses.setdefault(name, {})[cell.attack.name, cell.threat.gradient] = cell
    lines = [f"| Defense | {' | '.join(QUESTIONS)} |", f"| :-- |{' --: |' * len(QUESTIONS)}"]
    with Store(FOLDER.parent / "results.sqlite", readonly=True) as store:
        for name, cells in defenses.items():
            found = [_difference(store, *map(cells.get, question)) for question in QUESTIONS.values()]
            lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(lines)


def _difference(store: Store, a: Cell | None, b: Cell | None) -> str:
    """Points with their interval, bold where established; nothing where one of the two has not run."""
    images = [images_of(store, cell) for cell in (a, b) if cell is not None]
    if len(images) < 2 or None in images:
        return ""
    c = compare(*images)
    told = f"{c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}]"
    return f"**{told}**" if is_established(c) else told


BLOCKS = {"attack_pairs": pairs}
