"""What gates cost before they run, in answers for each of their images: the forecast's basis."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from bench.attacks.base import Attack
from bench.gates.askers import OTHER_CALLS, UNSEEN_IMAGES
from bench.gates.attackers import NEAREST, search_for
from bench.gates.base import CHEAP_DRAWS, DRAWS, FEW
from bench.gates.gradient import CHEAP_DIFFERENCES, CHEAP_PLACES, DERIVATIVES, DIFFERENCES, PLACES
from bench.gates.images import TRANSFER_STEPS
from bench.gates.strength import SQUARE
from bench.threat import ThreatModel

Cost = tuple[float, float]  # (answers without a gradient, answers with one) an image of the gates
NOTHING: Cost = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the cost of a gate follows from.

    Attributes:
        attack: the one that the gates vary.
        threat: the cell's.
        images: that the gates look at, at least 1.
        cheap: whether only the gates that every cell gets are asked.
        stochastic: whether the defense draws.
        kinds: of gradient that the defense has.
        tried: kinds of gradient that members of the cell's attack have had.
        bare: whether an answer of the bare classifier costs as much as one of the defense.
        rows: images of one pass of the cell's judge.
        precise: whether the attack computes in float32.
        known: whether the attacker knows the noise.
    """

    attack: Attack
    threat: ThreatModel
    images: int
    cheap: bool
    stochastic: bool = True
    kinds: Collection[str] = ()
    tried: Collection[str] = ()
    bare: bool = False
    rows: int = 0
    precise: bool = True
    known: bool = False

    @property
    def draws(self) -> int:
        """Judging draws of a comparison."""
        return (CHEAP_DRAWS if self.cheap else DRAWS) if self.stochastic else 1

    @property
    def few(self) -> float:
        """Share of the images that gradients are looked at on."""
        return min(1.0, FEW / self.images) if self.cheap else 1.0

    @property
    def eot(self) -> int:
        """Draws a step of the attack."""
        return int(getattr(self.attack, "eot", 1))

    @property
    def has_gradient(self) -> bool:
        """Whether the defense declares a derivative of its own."""
        return bool({*self.kinds, self.threat.gradient} & {*DERIVATIVES})

    @property
    def attacked(self) -> Cost:
        """The attack once, judged. A transfer attack asks the bare classifier alone."""
        plain, graph = self.attack.queries()
        return plain + self.draws, 0 if self.threat.gradient == "transfer" and not self.bare else graph

    def times(self, number: float) -> Cost:
        """The attack so many times."""
        return number * self.attacked[0], number * self.attacked[1]


def count_answers(asked: Asked, gates: Collection[str]) -> Cost:
    """Answers that gates ask for each of their images, at most, but for one: an attack where a loss is saturated.

    Args:
        asked: what is asked of what.
        gates: their names.

    Returns:
        Answers without a gradient and with one.
    """
    found = [COSTS[name](asked) for name in gates]
    return sum(plain for plain, _ in found), sum(graph for _, graph in found)


def _kind(kind: str) -> Callable[[Asked], Cost]:
    def cost(asked: Asked) -> Cost:
        if asked.attack.gradient_free or kind not in asked.kinds or kind in (asked.threat.gradient, *asked.tried):
            return NOTHING
        plain, graph = asked.attack.queries()
        if kind in DERIVATIVES and asked.threat.gradient not in DERIVATIVES:
            graph *= 2  # priced as the cell's cheaper gradient
        return plain + asked.draws, 0 if kind == "transfer" and not asked.bare else graph

    return cost


def _gradients(plain: float, graph: float) -> Callable[[Asked], Cost]:
    return lambda a: NOTHING if a.attack.gradient_free else (plain * a.few, graph * a.few)


def _audit(asked: Asked) -> Cost:
    if asked.attack.gradient_free or asked.threat.gradient not in DERIVATIVES:
        return NOTHING
    places = CHEAP_PLACES if asked.cheap else PLACES
    return places * (CHEAP_DIFFERENCES if asked.cheap else DIFFERENCES) * asked.few, places * asked.few


def _undeclared(asked: Asked) -> Cost:
    if asked.has_gradient:
        return NOTHING
    if asked.cheap:
        return CHEAP_DIFFERENCES * asked.few, asked.few
    plain, graph = asked.attack.queries()
    return DIFFERENCES + plain + asked.draws, 1 + max(graph, 160 if asked.attack.gradient_free else 0)


def _transfer(asked: Asked) -> Cost:
    return asked.draws, TRANSFER_STEPS + 1 if asked.bare else 0


def _plateau(asked: Asked) -> Cost:
    search = search_for(asked.cheap, asked.stochastic or asked.threat.norm == "L1")
    return NOTHING if asked.cheap and asked.has_gradient else (search.queries()[0] + asked.draws, 0)


def _outsider(asked: Asked) -> Cost:
    return NOTHING if asked.known else _stranger(asked)


def _stranger(asked: Asked) -> Cost:
    return (1 if asked.cheap else 2) * (max(1, asked.draws // 4) + asked.draws), 0


def _batches(asked: Asked) -> Cost:
    return 1 + (4 + 40 + max(asked.images, asked.rows)) / asked.images, 0


def _unseen(asked: Asked) -> Cost:
    return asked.times(min(1.0, UNSEEN_IMAGES / asked.images) if asked.cheap else 1)


COSTS: Mapping[str, Callable[[Asked], Cost]] = {
    "unseen": _unseen,
    "repeatable": lambda a: (2, 0),
    "batch_independence": _batches,
    "draws_agree": lambda a: NOTHING if a.stochastic else (2, 0),
    "not_identity": lambda a: (1, 0),
    "gradient_audit": _audit,
    "gradient_nonzero": lambda a: _gradients(0, 3 * min(a.eot, 4))(a),
    "gradient_scale": _gradients(7, 2),
    "known_noise": lambda a: ((CHEAP_DRAWS if a.cheap else DRAWS), 0) if a.known else NOTHING,
    "precision_cosine": lambda a: NOTHING if a.precise else _gradients(0, 3)(a),
    "eot_signal": lambda a: _gradients(0, 8)(a) if hasattr(a.attack, "eot") else NOTHING,
    "robust_above_null": lambda a: NOTHING,
    "step_reaches": lambda a: NOTHING,
    "inside_ball": lambda a: (2 * a.draws, 0),
    "remembers": lambda a: (3 + OTHER_CALLS / a.images, 0),
    "beats_noise": lambda a: (a.draws, 0),
    "margin_transfer": _transfer,
    "on_grid": lambda a: (3 * a.draws, 0),
    "outsider": _outsider,
    "beats_transfer": _kind("transfer"),
    "beats_straight_through": _kind("straight_through"),
    "beats_surrogate": _kind("surrogate"),
    "beats_guidance_detached": _kind("guidance_detached"),
    "beats_exact": _kind("exact"),
    "undeclared_gradient": _undeclared,
    "saturated_loss": lambda a: (1, 0),
    "beats_square": lambda a: (SQUARE["steps"] * min(a.eot, SQUARE["eot"]) + a.draws, 0),
    "plateau": _plateau,
    "towards_others": lambda a: (1 + NEAREST + a.draws, 0),
    "more_steps": lambda a: a.times(2),
    "more_eot": lambda a: a.times(2) if hasattr(a.attack, "eot") else NOTHING,
    "epsilon_sweep": lambda a: a.times(2),
    "agrees_with_cell": lambda a: a.times(1),
}
