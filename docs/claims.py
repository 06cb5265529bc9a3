"""The generated blocks of docs/claims.md: tables and paired tests of the grid `digits_claims`, in words that follow.

A sentence is chosen by its test, so it cannot say more than the rows do; tests/test_claims_page.py holds them to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.cell import Cell
from bench.commands.report import tables
from bench.grids import cifar10_small, digits_attacks, digits_defenses, grid_cells
from bench.grids.digits_claims import LOGGED, SINGLE, cell
from bench.literature.publish import read_published
from bench.records import ImageRecord
from bench.statistics import compare, is_established
from bench.store import Store
from defenses import Gradient, defenses

DATABASE = Path(__file__).resolve().parents[1] / "results.sqlite"
GRID = "digits_claims"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paired test, and what follows from it.

    Attributes:
        a: the first cell, or all its seeds (docs/guidance.py pools them).
        b: the second, on the same pictures.
        a_words: subject of "leaves 40.0 %", with a capital.
        b_words: the other subject.
        more: what follows where an established difference says that a leaves more than b.
        less: the same, less.
        open: where no difference is established.
    """

    a: Cell | tuple[Cell, ...]
    b: Cell | tuple[Cell, ...]
    a_words: str
    b_words: str
    more: str
    less: str
    open: str


def consequence(claim: Claim, found: Mapping[str, float]) -> str:
    """What a test (see `compare`) lets the page say."""
    if not is_established(found):
        return claim.open
    return claim.more if found["difference"] > 0 else claim.less


def sentence(claim: Claim, found: Mapping[str, float]) -> str:
    """A line of the page: the two numbers, their difference and its test, and what follows."""
    return (
        f"- {claim.a_words} leaves {found['a_accuracy']:.1f} %, {claim.b_words} {found['b_accuracy']:.1f} %: "
        f"{round(found['difference'], 1) + 0.0:+.1f} points [{found['low']:+.1f}, {found['high']:+.1f}], "
        f"p = {found['p_value']:.2g}, "
        f"{'established' if is_established(found) else 'not established'}. {consequence(claim, found)}"
    )


def images_of(store: Store, cell: Cell) -> list[ImageRecord] | None:
    """The images of a cell's newest run; None where it has not run."""
    try:
        run = store.latest_done(store.cell(cell.key)["key"])
    except LookupError:
        return None
    return None if run is None else store.images(run["id"])


def run_test(store: Store, claim: Claim) -> dict[str, float] | None:
    """The paired test of a claim; None where one of its cells has not run."""
    a, b = images_of(store, claim.a), images_of(store, claim.b)
    return None if a is None or b is None else compare(a, b)


TITLES = {
    "diffpure_sde": "DiffPure",
    "gdmp": "GDMP",
    "adbm": "ADBM's sampler",
    "consistency": "Consistency (from a denoiser)",
    "contrastive": "Contrastive guidance",
}
AAOPT = (
    Claim(
        a=cell("aaopt", "surrogate", LOGGED),
        b=cell("aaopt", "exact"),
        a_words="The attack of the logs (AutoAttack against one step of AAOpt, its images shown to all twenty)",
        b_words="`strong` with the exact gradient",
        more="**No: a number measured as the logs do is of a transfer. It does not measure the defense.**",
        less="Here the logged attack is the stronger one: what is wrong with the log is not its strength.",
        open="**On these digits nothing tells the two apart**, so the log's protocol is not refuted by its number.",
    ),
    Claim(
        a=cell("aaopt", "surrogate"),
        b=cell("aaopt", "exact"),
        a_words="`strong` with the released gradient (the identity at an image of one step)",
        b_words="with the exact one",
        more="The released gradient hides what the defense gives way to.",
        less="The released gradient finds more than the exact one: the exact one is hard to climb here.",
        open="The released gradient costs an attacker nothing that 32 images show: the attack around it does.",
    ),
    Claim(
        a=cell("aaopt", "transfer"),
        b=cell("aaopt", "exact"),
        a_words="The transfer attack on AAOpt",
        b_words="the exact gradient",
        more="What is not differentiated looks like robustness.",
        less="Differentiating the twenty steps does not help an attacker here; it loses to a transfer.",
        open="Differentiating the twenty steps gains nothing that 32 images show.",
    ),
)


def held_constant(title: str, make: Callable[[Gradient], Cell]) -> Claim:
    """Guidance held constant against the exact gradient, one run of the same attack."""
    return Claim(
        a=make("guidance_detached"),
        b=make("exact"),
        a_words=f"{title}: guidance held constant",
        b_words="the exact gradient",
        more="**Ignoring the guidance costs the attack here.**",
        less="**Holding the guidance constant attacks better than its exact gradient.**",
        open="**No difference is established: what ignoring the guidance costs, if anything, is within the interval.**",
    )


GUIDANCE = (
    *(
        held_constant(f"{TITLES[name]}, momentum PGD", partial(cell, name, attack=SINGLE))
        for name in ("gdmp", "contrastive")
    ),
    *(
        held_constant(
            f"{TITLES[name]}, digits, PGD of 20 steps and four draws",
            partial(digits_attacks.cell, defenses.make(name, digits_defenses.SETTINGS[name]), digits_attacks.PGD),
        )
        for name in ("gdmp", "contrastive")
    ),
    held_constant("GDMP, CIFAR-10, PGD of ten steps", partial(cifar10_small.cell, cifar10_small.OTHERS[2])),
    held_constant(
        "Contrastive guidance, CIFAR-10, PGD of ten steps",
        partial(cifar10_small.cell, cifar10_small.contrastive(cifar10_small.LEVELS["Linf"])),
    ),
    Claim(
        a=cell("gdmp", "guidance_detached"),
        b=cell("gdmp", "straight_through"),
        a_words="GDMP under `strong`: guidance held constant",
        b_words="the straight-through gradient",
        more="Without its guidance's part the gradient is worse than the identity.",
        less="A gradient without the guidance's part still finds far more than the identity: it is no ruin.",
        open="No difference to the identity is established.",
    ),
    Claim(
        a=cell("gdmp", "guidance_detached"),
        b=cell("gdmp", "exact"),
        a_words="GDMP under `strong`: guidance held constant",
        b_words="the exact gradient (of which `strong` also holds the guidance constant, once)",
        more="An attacker should have both.",
        less="The exact gradient is the weaker choice.",
        open="Whoever ignores the guidance of GDMP loses nothing that 32 images show.",
    ),
)
FLOWPURE = (
    Claim(
        a=cell("flowpure", "surrogate"),
        b=cell("flowpure", "exact"),
        a_words="FlowPure: the released gradient, through four of nine steps,",
        b_words="the exact one",
        more="The released gradient is weaker: the published number is no white-box number.",
        less="The released gradient is the stronger one.",
        open="32 images show no loss by the released gradient: what it differentiates is not the trouble here.",
    ),
    Claim(
        a=cell("flowpure_judged", "exact"),
        b=cell("flowpure", "exact"),
        a_words="The process of four steps, on which the authors count successes, under its exact gradient",
        b_words="the defense of nine steps",
        more="**What the authors judge is more robust than the defense: their number flatters it.**",
        less="**What the authors judge is weaker than the defense: their number understates it.**",
        open="**32 images tell no difference between the two; the authors' number is still that of another function.**",
    ),
    Claim(
        a=cell("flowpure", "transfer"),
        b=cell("flowpure", "exact"),
        a_words="The transfer attack on FlowPure (the authors' preprocessor-blind setting)",
        b_words="the exact gradient",
        more="The preprocessor-blind number is no bound for an attacker who knows the defense.",
        less="The transfer attack is the stronger one.",
        open="No difference is established.",
    ),
)


def worth(name: str, kind: Gradient) -> Claim:
    """What the exact gradient is worth over another kind, for a defense of `TITLES`."""
    words = {"transfer": "the transfer attack", "straight_through": "the straight-through gradient"}
    return Claim(
        a=cell(name, kind),
        b=cell(name, "exact"),
        a_words=f"{TITLES[name]}: {words[kind]}",
        b_words="the exact gradient",
        more=f"A number of {words[kind]} flatters it.",
        less="The exact gradient is the weaker one: distrust the attack.",
        open="No difference is established.",
    )


WEAKER: tuple[Gradient, ...] = ("transfer", "straight_through")
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "claims_aaopt": AAOPT,
    "claims_guidance": GUIDANCE,
    "claims_flowpure": FLOWPURE,
    "claims_others": tuple(worth(name, kind) for name in TITLES for kind in WEAKER),
}


def sentences(name: str, database: Path = DATABASE) -> str:
    """The lines of a group of `CLAIMS`; of tests whose cells have not run, how many."""
    with Store(database, readonly=True) as store:
        found = [(claim, run_test(store, claim)) for claim in CLAIMS[name]]
    lines = [sentence(claim, test) for claim, test in found if test is not None]
    missing = len(found) - len(lines)
    return "\n".join([*lines, *([f"- {missing} of {len(found)} tests have not run."] if missing else [])])


def unchanged(database: Path = DATABASE) -> str:
    """How many images the attack of AAOpt's logs returns as they were."""
    with Store(database, readonly=True) as store:
        images = images_of(store, cell("aaopt", "surrogate", LOGGED))
    if images is None:
        return "How many images it hands back unchanged is not known: it has not run."
    same = sum(image.distance == 0 for image in images)
    return f"It hands back {same} of the {len(images)} images unchanged."


def table(name: str, database: Path = DATABASE) -> str:
    """A table of the grid, from a database."""
    with Store(database, readonly=True) as store:
        return tables(store, GRID, grid_cells(GRID), "markdown", table=name)


KINDS = ("exact", "adjoint", "surrogate", "identity", "detached", "transfer", "none", "other", None)
DEFENDED = ("AAOpt", "ADBM", "consistency", "contrastive guidance", "DiffPure", "GDMP")


def published() -> str:
    """How many published numbers of each defense were measured with which gradient, and the range that each left."""
    rows = [
        row
        for row in read_published()
        if row["robust_acc"] is not None
        and (row["dataset"], row["norm"], row["eps"]) == ("CIFAR-10", "Linf", "8/255")
        and "one-iteration surrogate" not in row["defense"]  # rows of AAOpt's logs that judge another function
    ]
    lines = ["| defense | " + " | ".join(kind or "not known" for kind in KINDS) + " |"]
    lines.append("| :-- |" + " --: |" * len(KINDS))
    for defense in DEFENDED:
        own = [row for row in rows if row["defense"].startswith(defense)]
        cells = [[row["robust_acc"] for row in own if row["attacker_gradient"] == kind] for kind in KINDS]
        lines.append(f"| {defense} | " + " | ".join(map(_range, cells)) + " |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    span = f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"
    return f"{span} ({len(values)})"


BLOCKS: dict[str, Callable[[], str]] = {
    **{
        f"digits_claims_{name}": partial(table, name)
        for name in ("gradients", "readings", "known_noise", "single", "logged")
    },
    **{name: partial(sentences, name) for name in CLAIMS},
    "claims_unchanged": unchanged,
    "published_kinds": published,
}
