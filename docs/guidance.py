"""The answers and the figure at the top of docs/findings.md: paired tests, in words that follow from them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.draw.style import WIDTHS, line_style, new_figure, styled, write
from bench.grids.cifar10_small import LEVELS, PER_IMAGE, cell, contrastive, diffpure, gold_rows, sde_rows
from bench.statistics import compare
from bench.store import Store

FOLDER = Path(__file__).resolve().parent
PAGE = runpy.run_path(str(FOLDER / "claims.py"))
Claim, sentence, images_of = PAGE["Claim"], PAGE["sentence"], PAGE["images_of"]

PLAIN, GUIDED = diffpure(LEVELS["Linf"]), contrastive(LEVELS["Linf"])
PLAIN_SDE_ST, PLAIN_SDE, GUIDED_SDE_ST, GUIDED_SDE_HELD, GUIDED_SDE, _ = sde_rows("Linf")
PLAIN_GOLD, GUIDED_GOLD = gold_rows()
NO_GAIN, GAIN, LOSS = "No gain that these pictures show.", "Guidance gains.", "Guidance loses."


def gains(a: Cell, b: Cell, a_words: str, b_words: str) -> Any:
    """Guidance against none."""
    return Claim(a=a, b=b, a_words=a_words, b_words=b_words, more=GAIN, less=LOSS, open=NO_GAIN)


QUESTIONS: dict[str, Sequence[Any]] = {
    "Does contrastive guidance buy robustness? Against the gradient that is the strongest on each": (
        gains(
            cell(GUIDED, "guidance_detached"),
            cell(PLAIN, "exact"),
            "ODE: contrastive guidance, held constant in the gradient,",
            "DiffPure under its exact gradient",
        ),
        gains(GUIDED_SDE_HELD, PLAIN_SDE, "SDE: contrastive guidance, held constant,", "DiffPure, exact"),
        gains(
            GUIDED_GOLD,
            PLAIN_GOLD,
            "ODE under a shortened cascade `gold`: contrastive guidance",
            "DiffPure",
        ),
    ),
    "Under which gradient does it seem to?": (
        Claim(
            a=cell(GUIDED, "exact"),
            b=cell(PLAIN, "exact"),
            a_words="ODE: contrastive guidance, exact,",
            b_words="DiffPure, exact",
            more='**A table with a column "exact" would say that guidance helps.**',
            less=LOSS,
            open=NO_GAIN,
        ),
        Claim(
            a=cell(GUIDED, "exact"),
            b=cell(GUIDED, "guidance_detached"),
            a_words="But contrastive guidance, exact,",
            b_words="the same held constant",
            more="The exact gradient is the weaker attack: what it leaves is no robustness.",
            less="The exact gradient is the stronger attack.",
            open="The two attacks are alike.",
        ),
        gains(
            cell(GUIDED, "straight_through"),
            cell(PLAIN, "straight_through"),
            "Under the gradient of the authors' code (straight-through): contrastive guidance",
            "DiffPure",
        ),
    ),
    "How much does the attacker's gradient decide?": tuple(
        Claim(
            a=a,
            b=b,
            a_words=f"{name}, straight-through,",
            b_words="its strongest gradient",
            more="The purifier's own gradient takes that much more.",
            less="The purifier's own gradient takes less.",
            open="No difference.",
        )
        for name, a, b in (
            ("DiffPure (ODE)", cell(PLAIN, "straight_through"), cell(PLAIN, "exact")),
            (
                "Contrastive guidance (ODE)",
                cell(GUIDED, "straight_through"),
                cell(GUIDED, "guidance_detached"),
            ),
            ("DiffPure (SDE)", PLAIN_SDE_ST, PLAIN_SDE),
        )
    ),
    "Is it the batch? The released loss is a mean over a batch, which ties its pictures together": tuple(
        Claim(
            a=cell(GUIDED, kind),
            b=cell(PER_IMAGE, kind),
            a_words=f"Guided as a batch, {words},",
            b_words="picture by picture",
            more="The batch hinders this gradient.",
            less="The batch helps this gradient.",
            open="The batch adds no robustness that this gradient sees.",
        )
        for kind, words in (("exact", "exact"), ("guidance_detached", "held constant"))
    ),
}
"""Question -> its paired tests."""

KINDS = ("transfer", "straight_through", "exact", "guidance_detached", "gold")
NAMES = ("transfer", "straight-\nthrough", "exact", "guidance held\nconstant", "gold,\nshortened")
POINTS: dict[str, dict[str, dict[str, Cell]]] = {
    "reverse ODE": {
        "DiffPure": {kind: cell(PLAIN, kind) for kind in KINDS[:3]} | {"gold": PLAIN_GOLD},
        "contrastive guidance": {kind: cell(GUIDED, kind) for kind in KINDS[:4]} | {"gold": GUIDED_GOLD},
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
                a, b = (images_of(store, one) for one in (claim.a, claim.b))
                if a is not None and b is not None:
                    lines.append(sentence(claim, compare(a, b)))
    return "\n".join(lines)


def figure() -> str:
    """Robust accuracy of both defenses by what the attacker differentiates, with intervals."""
    with Store(PAGE["DATABASE"], readonly=True) as store:
        rows = {row["cell_key"]: row for row in store.results()}
    told: dict[str, Any] = {}
    with styled():
        figure = new_figure(WIDTHS["page"], 2.5)
        for axes, (panel, defenses) in zip(figure.subplots(1, 2, sharey=True), POINTS.items(), strict=True):
            for number, (name, cells) in enumerate(defenses.items()):
                found = {kind: rows[one.key] for kind, one in cells.items() if one.key in rows}
                ends = {k: [row[f"robust_{end}"] for end in ("accuracy", "low", "high")] for k, row in found.items()}
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


BLOCKS = {"answers": answers}
