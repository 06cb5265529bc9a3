"""The paired tests of docs/findings.md: cells of the grid `cifar10_small`, two by two."""

from __future__ import annotations

import runpy
from pathlib import Path

from bench.cell import Cell
from bench.commands.titles import describe
from bench.grids.cifar10_small import (
    LEVELS,
    OTHERS,
    PER_IMAGE,
    SDE_LOSSES,
    cell,
    contrastive,
    diffpure,
    sde_rows,
    strong_rows,
)
from bench.statistics import compare
from bench.store import Store
from bench.threat import Norm
from defenses import Defense, Gradient

DIFFERING = ("solver", "loss", "per_image")  # what parts the guided rows of a comparison
FOLDER = Path(__file__).resolve().parent
images_of = runpy.run_path(str(FOLDER / "claims.py"))["images_of"]
SHORT_OF_STRONG: dict[str, Gradient] = {
    "DiffPure": "exact",
    "Guidance": "guidance_detached",
    "Guidance picture by picture": "guidance_detached",
    "DDPM": "exact",
    "Gradual noise": "exact",
    "GDMP": "guidance_detached",
}
"""The defenses of `strong_rows` in their order, and the strongest gradient under a single PGD."""


def comparisons() -> str:
    """The paired tests of docs/findings.md."""
    lines = [
        "| Question | Norm | A | B | A | B | A - B, 95 % | McNemar p |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: | --: |",
    ]
    for norm in ("Linf", "L2"):
        plain, guided = (make(LEVELS[norm]) for make in (diffpure, contrastive))
        lines += [
            pair("Does guidance help? Straight-through gradient", *_two(norm, guided, plain, "straight_through")),
            pair("Does guidance help? Exact gradient", *_two(norm, guided, plain, "exact")),
            pair(
                "Does guidance help? The stronger gradient of each",
                cell(guided, "guidance_detached", norm),
                cell(plain, "exact", norm),
            ),
            pair(
                "DiffPure: what the gradient is worth",
                cell(plain, "straight_through", norm),
                cell(plain, "exact", norm),
            ),
            pair("DiffPure: straight-through beyond transfer", *_kinds(norm, plain, "transfer", "straight_through")),
            pair("Guidance: straight-through beyond transfer", *_kinds(norm, guided, "transfer", "straight_through")),
            pair(
                "Guidance: what the gradient is worth", *_kinds(norm, guided, "straight_through", "guidance_detached")
            ),
            pair("Guidance: exact or held constant", *_kinds(norm, guided, "exact", "guidance_detached")),
        ]
    for norm in ("Linf", "L2"):
        plain_st, plain_exact, guided_st, guided_constant, guided_exact, _ = sde_rows(norm)
        lines += [
            pair("Does guidance help? SDE, straight-through", guided_st, plain_st),
            pair("Does guidance help? SDE, exact", guided_exact, plain_exact),
            pair("Does guidance help? SDE, guidance held constant", guided_constant, plain_exact),
            pair("Guidance on the SDE: exact or held constant", guided_exact, guided_constant),
            pair("DiffPure SDE: what the gradient is worth", plain_st, plain_exact),
        ]
    sde_guided = list(sde_rows("Linf"))[2]
    plain_strong, guided_strong, per_image_strong, *other_strong = strong_rows()
    plain, guided = plain_strong.defense, guided_strong.defense
    return "\n".join(
        line
        for line in [
            *lines,
            pair("Batch coupling, straight-through", *_two("Linf", guided, PER_IMAGE, "straight_through")),
            pair("Batch coupling, guidance held constant", *_two("Linf", guided, PER_IMAGE, "guidance_detached")),
            pair("Batch coupling, exact", *_two("Linf", guided, PER_IMAGE, "exact")),
            *(
                pair("Others: what the gradient is worth", *_kinds("Linf", d, "straight_through", "exact"))
                for d in OTHERS[:3]
            ),
            *(
                pair("Others: straight-through beyond transfer", *_kinds("Linf", d, "transfer", "straight_through"))
                for d in OTHERS[:3]
            ),
            pair("GDMP: exact or held constant", *_kinds("Linf", OTHERS[2], "exact", "guidance_detached")),
            *(
                pair("Other losses: exact or held constant", *_kinds("Linf", d, "exact", "guidance_detached"))
                for d in OTHERS[3:]
            ),
            *(
                pair("Another loss? The stronger gradient", *_two("Linf", d, guided, "guidance_detached"))
                for d in OTHERS[3:]
            ),
            *(pair("Another loss? SDE, straight-through", cell(d, "straight_through"), sde_guided) for d in SDE_LOSSES),
            *(pair("Another purifier than DiffPure? Exact", *_two("Linf", d, plain, "exact")) for d in OTHERS[:3]),
            *(
                pair(f"{name}: short of `strong`", cell(strong.defense, kind), strong)
                for (name, kind), strong in zip(SHORT_OF_STRONG.items(), strong_rows(), strict=True)
            ),
            pair("Does guidance help? `strong`", guided_strong, plain_strong),
            pair("Batch coupling, `strong`", guided_strong, per_image_strong),
            *(pair("Another purifier than DiffPure? `strong`", strong, plain_strong) for strong in other_strong),
        ]
        if line
    )


def _two(norm: Norm, a: Defense, b: Defense, gradient: Gradient) -> tuple[Cell, Cell]:
    return cell(a, gradient, norm), cell(b, gradient, norm)


def _kinds(norm: Norm, defense: Defense, a: Gradient, b: Gradient) -> tuple[Cell, Cell]:
    return cell(defense, a, norm), cell(defense, b, norm)


def pair(question: str, a: Cell, b: Cell) -> str:
    """A line of `comparisons`: the paired test of two cells; nothing where one has not run."""
    with Store(FOLDER.parent / "results.sqlite", readonly=True) as store:
        images = [images_of(store, cell) for cell in (a, b)]
    names = [f"{describe(cell.defense, DIFFERING)}, {_gradient(cell)}" for cell in (a, b)]
    head = f"| {question} | {a.threat.norm} | {names[0]} | {names[1]} |"
    if None in images:
        return ""
    c = compare(*images)
    difference = f"{c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}]"
    return f"{head} {c['a_accuracy']:.1f} | {c['b_accuracy']:.1f} | {difference} | {c['p_value']:.2g} |"


def _gradient(cell: Cell) -> str:
    return f"`{cell.attack.name}`" if cell.attack.name in ("gold", "strong") else cell.threat.gradient


BLOCKS = {"comparisons": comparisons}
