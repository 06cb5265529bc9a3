"""The answers and the figure at the top of docs/findings.md: paired tests, in words that follow from them."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.draw.style import WIDTHS, line_style, new_figure, styled, write
from bench.grids import grid_cells
from bench.grids.cifar10_guidance import seeds_of
from bench.grids.cifar10_small import LEVELS, PER_IMAGE, cell, contrastive, diffpure, sde_rows, strong_rows
from bench.records import ImageRecord
from bench.statistics import compare, is_established, summarize
from bench.store import Store
from defenses import Defense, Gradient

FOLDER = Path(__file__).resolve().parent
PAGE = runpy.run_path(str(FOLDER / "claims.py"))
Claim, sentence, images_of = PAGE["Claim"], PAGE["sentence"], PAGE["images_of"]

Cells = tuple[Cell, ...]  # one measurement: a cell, or all seeds of it

PLAIN, GUIDED = diffpure(LEVELS["Linf"]), contrastive(LEVELS["Linf"])
PLAIN_SDE_ST, PLAIN_SDE, GUIDED_SDE_ST, GUIDED_SDE_HELD, GUIDED_SDE, _ = sde_rows("Linf")
PLAIN_STRONG, GUIDED_STRONG, PER_IMAGE_STRONG, *_ = strong_rows()
NO_GAIN, GAIN, LOSS = "No gain that these pictures show.", "Guidance gains.", "Guidance loses."


def wide(defense: Defense, kind: Gradient) -> Cells:
    """The ODE with all seeds of `cifar10_guidance`."""
    return seeds_of(cell(defense, kind))


def pictures_of(store: Store, asked: Cell | Cells) -> list[ImageRecord] | None:
    """What the seeds of a measurement found, with all draws of a picture that two of them drew; None where none ran."""
    parts = [images_of(store, one) for one in (asked if isinstance(asked, tuple) else (asked,))]
    found: dict[int, ImageRecord] = {}
    for record in (record for part in parts if part for record in part):
        known = found.get(record.index)
        found[record.index] = record if known is None else joined(known, record)
    return list(found.values()) or None


def joined(a: ImageRecord, b: ImageRecord) -> ImageRecord:
    """A picture with the draws of two runs; what only one of them tells is left out."""
    votes = {
        name: dict(Counter(getattr(a, name)) + Counter(getattr(b, name)))
        for name in ("clean_votes", "robust_votes", "null_votes")
    }
    return replace(a, **votes, rounded_votes=None)


def gains(a: Cell | Cells, b: Cell | Cells, a_words: str, b_words: str) -> Any:
    """Guidance against none."""
    return Claim(a=a, b=b, a_words=a_words, b_words=b_words, more=GAIN, less=LOSS, open=NO_GAIN)


def alike(*named: tuple[str, Cell | Cells, Cell | Cells], a_words: str, **words: str) -> list[Any]:
    """One question about several pairs, each (name, a, b)."""
    return [Claim(a=a, b=b, a_words=f"{name}, {a_words}", **words) for name, a, b in named]


QUESTIONS: dict[str, Sequence[Any]] = {
    "Does contrastive guidance buy robustness? Against the gradient that is the strongest on each": (
        gains(
            wide(GUIDED, "guidance_detached"),
            wide(PLAIN, "exact"),
            "ODE: contrastive guidance, held constant in the gradient,",
            "DiffPure under its exact gradient",
        ),
        gains(GUIDED_SDE_HELD, PLAIN_SDE, "SDE: contrastive guidance, held constant,", "DiffPure, exact"),
        gains(GUIDED_STRONG, PLAIN_STRONG, "ODE under `strong`, 10 and 20 steps: contrastive guidance", "DiffPure"),
    ),
    "Under which gradient does it seem to?": (
        Claim(
            a=wide(GUIDED, "exact"),
            b=wide(PLAIN, "exact"),
            a_words="ODE: contrastive guidance, exact,",
            b_words="DiffPure, exact",
            more='**A table with a column "exact" would say that guidance helps.**',
            less=LOSS,
            open=NO_GAIN,
        ),
        Claim(
            a=wide(GUIDED, "exact"),
            b=wide(GUIDED, "guidance_detached"),
            a_words="But contrastive guidance, exact,",
            b_words="the same held constant",
            more="The exact gradient is the weaker attack: the difference is no robustness.",
            less="The exact gradient is the stronger attack.",
            open="The two attacks are alike.",
        ),
        gains(
            wide(GUIDED, "straight_through"),
            wide(PLAIN, "straight_through"),
            "Under the gradient of the authors' code (straight-through): contrastive guidance",
            "DiffPure",
        ),
    ),
    "How much do the attacker's gradient, and the attack, decide?": (
        *alike(
            ("DiffPure (ODE)", wide(PLAIN, "straight_through"), wide(PLAIN, "exact")),
            ("Contrastive guidance (ODE)", wide(GUIDED, "straight_through"), wide(GUIDED, "guidance_detached")),
            ("DiffPure (SDE)", PLAIN_SDE_ST, PLAIN_SDE),
            a_words="straight-through,",
            b_words="its strongest gradient",
            more="The purifier's own gradient takes that much more.",
            less="The purifier's own gradient takes less.",
            open="No difference.",
        ),
        *alike(
            ("DiffPure (ODE)", cell(PLAIN, "exact"), PLAIN_STRONG),
            ("Contrastive guidance (ODE)", cell(GUIDED, "guidance_detached"), GUIDED_STRONG),
            a_words="PGD of ten steps with its strongest gradient,",
            b_words="`strong`, 10 and 20 steps",
            more="**The short attack flatters here; other rows of PGD may be too high as well.**",
            less="The short attack finds more.",
            open="The short attack is not seen to flatter.",
        ),
    ),
    "Is it the batch? The released loss compares each picture with the others of its batch": tuple(
        Claim(
            a=a,
            b=b,
            a_words=f"Guided as a batch, {words},",
            b_words="picture by picture, which starts one step later,",
            more="This attack finds more picture by picture; which of the two changes does it is not known.",
            less="This attack finds more on the batch.",
            open="No difference that this attack sees.",
        )
        for a, b, words in (
            (cell(GUIDED, "exact"), cell(PER_IMAGE, "exact"), "exact"),
            (cell(GUIDED, "guidance_detached"), cell(PER_IMAGE, "guidance_detached"), "held constant"),
            (GUIDED_STRONG, PER_IMAGE_STRONG, "under `strong`"),
        )
    ),
}
"""Question -> its paired tests."""

KINDS = ("transfer", "straight_through", "exact", "guidance_detached", "strong")
NAMES = ("transfer", "straight-\nthrough", "exact", "guidance held\nconstant", "strong")
POINTS: dict[str, dict[str, dict[str, Cell | Cells]]] = {
    "reverse ODE": {
        "DiffPure": {kind: wide(PLAIN, kind) for kind in KINDS[:3]} | {"strong": PLAIN_STRONG},
        "contrastive guidance": {kind: wide(GUIDED, kind) for kind in KINDS[:4]} | {"strong": GUIDED_STRONG},
    },
    "reverse SDE": {
        "DiffPure": {"straight_through": PLAIN_SDE_ST, "exact": PLAIN_SDE},
        "contrastive guidance": {
            "straight_through": GUIDED_SDE_ST,
            "exact": GUIDED_SDE,
            "guidance_detached": GUIDED_SDE_HELD,
        },
    },
}
"""Panel -> defense -> kind of gradient -> cell."""


def answers() -> str:
    """Each question, and what its tests say."""
    lines = []
    with Store(PAGE["DATABASE"], readonly=True) as store:
        for number, (question, claims) in enumerate(QUESTIONS.items(), 1):
            lines.append(f"\n**{number}. {question}**\n")
            for claim in claims:
                a, b = (pictures_of(store, one) for one in (claim.a, claim.b))
                if a is not None and b is not None:
                    found = compare(a, b)
                    lines.append(f"{sentence(claim, found)} ({found['images']:.0f} pictures.)")
    return "\n".join(lines)


def levels() -> str:
    """Each noise level by paired tests: DiffPure against itself at the paper's t, guidance against none."""
    tests = ("DiffPure minus that at t = 0.1, 95 %", "Guidance minus none, 95 %")
    lines = [
        f"| t |{''.join(f' {test} | McNemar p | Established |' for test in tests)}",
        f"| --: |{' --: | --: | :-- |' * len(tests)}",
    ]
    swept = grid_cells("cifar10_noise_level")
    plain, guided = ({c.defense.t: c for c in swept if c.defense.name == d} for d in ("diffpure_ode", "contrastive"))
    with Store(PAGE["DATABASE"], readonly=True) as store:
        for t in plain:
            beside = _tested(store, plain[t], plain[0.1]) if t != 0.1 else " |  | "
            lines.append(f"| {t:g} | {beside} | {_tested(store, guided[t], plain[t])} |")
    return "\n".join(lines)


def _tested(store: Store, one: Cell, other: Cell) -> str:
    """Difference, p and whether it is established, as three columns; empty where one of the two has not run."""
    a, b = (pictures_of(store, each) for each in (one, other))
    if a is None or b is None:
        return " |  | "
    c = compare(a, b)
    difference = f"{c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}]"
    return f"{difference} | {c['p_value']:.2g} | {'yes' if is_established(c) else 'no'}"


def figure() -> str:
    """Robust accuracy of both defenses by what the attacker differentiates, with intervals."""
    with Store(PAGE["DATABASE"], readonly=True) as store:
        found = {
            (panel, name, kind): records
            for panel, defenses in POINTS.items()
            for name, cells in defenses.items()
            for kind, one in cells.items()
            if (records := pictures_of(store, one))
        }
    numbers = {place: summarize(records, stochastic=True) for place, records in found.items()}
    told: dict[str, Any] = {}
    with styled():
        figure = new_figure(WIDTHS["page"], 2.5)
        for axes, (panel, defenses) in zip(figure.subplots(1, 2, sharey=True), POINTS.items(), strict=True):
            for number, (name, cells) in enumerate(defenses.items()):
                mine = {kind: numbers[panel, name, kind] for kind in cells if (panel, name, kind) in numbers}
                ends = {k: [row[f"robust_{end}"] for end in ("accuracy", "low", "high")] for k, row in mine.items()}
                told[f"{panel}, {name}"] = {kind: [round(value, 1) for value in three] for kind, three in ends.items()}
                style = line_style(number) | {"linestyle": "none"}
                places = [KINDS.index(kind) + 0.16 * number - 0.08 for kind in ends]
                errors = [[y - low, high - y] for y, low, high in ends.values()]
                axes.errorbar(
                    places, [y for y, _, _ in ends.values()], list(zip(*errors, strict=True)), label=name, **style
                )
            shown = [i for i, kind in enumerate(KINDS) if any(kind in cells for cells in defenses.values())]
            axes.set_xticks(shown, [NAMES[i] for i in shown])
            axes.set(title=panel, ylim=(0, 100))
            axes.grid(False, axis="x")
        figure.axes[0].set_ylabel("robust accuracy, %")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return write(figure, "svg", json.dumps(told)).decode()


BLOCKS = {"answers": answers, "levels": levels}
