"""The paired tests of the other data sets in docs/findings.md, in words that follow from them."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.grids.other_datasets import SETTINGS, Setting
from bench.statistics import compare
from bench.store import Store

PAGE = runpy.run_path(str(Path(__file__).resolve().parent / "claims.py"))
Claim, sentence, images_of = PAGE["Claim"], PAGE["sentence"], PAGE["images_of"]
NAMES = {
    "diffpure_ode": "DiffPure (ODE)",
    "contrastive": "Contrastive guidance",
}


def claims(setting: Setting) -> Iterator[Any]:
    """Does purification leave anything, does guidance add to it, and what is the gradient worth?"""
    cells: dict[tuple[str, str], Cell] = {(cell.defense.name, cell.threat.gradient): cell for cell in setting.cells()}
    plain = cells["diffpure_ode", "exact"]
    yield Claim(
        a=plain,
        b=cells["undefended", "exact"],
        a_words="DiffPure (ODE), exact,",
        b_words="the bare classifier",
        more="Something is left under this short attack; a longer one may leave less.",
        less="Purification loses.",
        open="Nothing is left that these pictures show.",
    )
    for kind, words in (("guidance_detached", "held constant in the gradient"), ("exact", "exact")):
        yield Claim(
            a=cells["contrastive", kind],
            b=plain,
            a_words=f"Contrastive guidance, {words},",
            b_words="DiffPure (ODE), exact",
            more="Guidance gains." if kind != "exact" else "It seems to gain under this gradient.",
            less="Guidance loses.",
            open="No gain that these pictures show.",
        )
    for name, words in NAMES.items():
        strong = "guidance_detached" if name == "contrastive" else "exact"
        if (name, strong) in cells:
            yield Claim(
                a=cells[name, "straight_through"],
                b=cells[name, strong],
                a_words=f"{words}, straight-through,",
                b_words="its own gradient, guidance held constant," if strong != "exact" else "its exact gradient",
                more="Its own gradient takes that much more.",
                less="Its own gradient takes less.",
                open="No difference that these pictures show.",
            )


def sentences(setting: Setting) -> Callable[[], str]:
    """The paired tests of a data set whose cells have run, a line each."""

    def block() -> str:
        lines = []
        with Store(PAGE["DATABASE"], readonly=True) as store:
            for claim in claims(setting):
                a, b = (images_of(store, one) for one in (claim.a, claim.b))
                if a is not None and b is not None:
                    lines.append(sentence(claim, compare(a, b)))
        return "\n".join(lines) or "Not measured yet."

    return block


BLOCKS = {f"{setting.dataset}_tests": sentences(setting) for setting in SETTINGS}
