"""What the attack of a cell asks of its defense for a usual image, by the kind of gradient that is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from bench.attacks.base import UNSEEN, Attack
from bench.attacks.cascade import Cascade
from bench.attacks.gold import Gold
from bench.attacks.strong import Strong
from bench.cell import Cell
from defenses.base import Gradient

WHOLE = 3  # lengths that a batch of a batch-coupled defense is priced at


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of the defense for one image.

    Attributes:
        plain: without a gradient.
        graphs: kind of gradient -> answers with one.
    """

    plain: float
    graphs: Mapping[Gradient, float]


def count_attack(cell: Cell) -> Answers:
    """Count what an attack asks; of a cascade at most, as images leave it early."""
    own, attack = cell.threat.gradient, cell.attack
    guided = own == "exact" and "guidance_detached" in cell.defense.gradients
    if isinstance(attack, Gold):
        attack = attack.cascade(cell.threat.epsilon, guided=guided)
    if isinstance(attack, Cascade):
        return _count_members(attack, own)
    if isinstance(attack, Strong):
        return _count_strong(attack, cell, guided=guided)
    plain, graph = attack.usual_queries()
    return Answers(plain=plain, graphs={own: graph} if graph else {})


def _count_members(cascade: Cascade, own: Gradient) -> Answers:
    plain, graphs = float(cascade.queries()[0]), defaultdict[Gradient, float](float)
    for attack, (_, _, kind) in zip(cascade.made(), cascade.members, strict=True):
        graphs[kind or own] += attack.queries()[1]
    return Answers(plain=plain, graphs={kind: count for kind, count in graphs.items() if count})


def _count_strong(attack: Strong, cell: Cell, *, guided: bool) -> Answers:
    """Its usual image; with guidance also the runs that hold it constant, of the first length.

    A batch that stays whole goes on while a doubling wins a point for it, and no image of it is done before the others:
    priced as if two doublings did, and as if all members tried.
    """
    own = cell.threat.gradient
    graphs = defaultdict[Gradient, float](float)
    if not cell.defense.batch_coupled:
        plain, graphs[own] = attack.usual_queries()
        if guided:
            graphs["guidance_detached"] += 2.0 * attack.first
        return Answers(plain=plain, graphs=graphs)
    every = 2.0 * sum(attack.lengths[:WHOLE])
    graphs[own] += every
    graphs["straight_through"] += attack.first
    if guided:
        graphs["guidance_detached"] += every
    if own not in ("straight_through", *UNSEEN) and "surrogate" in cell.defense.gradients:
        graphs["surrogate"] += attack.first
    return Answers(plain=float(attack.queries()[0]), graphs=graphs)


def rows_of_attack(cell: Cell) -> int:
    """Rows of one pass of the attack: the images of a batch on all draws of a step."""
    return min(cell.batch_size, cell.num_images) * _eot(cell.attack)


def _eot(attack: Attack) -> int:
    eot = attack.params().get("eot", 1)
    return max(1, int(eot)) if isinstance(eot, int) else 1
