"""What an answer costs on a card that is not at hand: operations of its networks over a sustained rate. A model."""

from __future__ import annotations

from bench.cell import Cell
from bench.run.cards import Card
from bench.run.flops import Flops, flops_of_classifier, flops_of_score
from bench.run.prepare import names_of
from bench.run.rates import Rate, name_rate
from bench.run.standins import Called, Passes, count_calls
from defenses.base import Gradient
from defenses.precision import Precision


class OnCard:
    """Rates of a card by the model; needs no weights where the architectures are known."""

    def __init__(self, card: Card, *, compiled: bool = False) -> None:
        self.card = card
        self.place = f"one {card.title}"
        self.remark = "modelled from counted operations, not measured; small networks take longer"
        if compiled:
            self.remark += "; what --compile saves is not modelled"
        self._rates: dict[str, Rate] = {}
        self._calls: dict[str, Called] = {}

    def find_missing(self, cell: Cell) -> dict[str, str]:
        """Name -> where to get it, of every network whose architecture is known from its file alone."""
        classifiers, scores = names_of(cell)
        found = {}
        for names, count in ((classifiers, flops_of_classifier), (scores, flops_of_score)):
            for name in names:
                try:
                    count(name, cell)
                except LookupError as error:
                    found[name] = str(error)
        return found

    def rate(self, cell: Cell, kind: Gradient, precision: Precision | None) -> Rate:
        """See `bench.run.rates.Rates.rate`; only what records a gradient is in the attack's precision."""
        precision = precision or "float32"
        name = name_rate(cell, kind, precision)
        if name not in self._rates:
            plain, graph = (self._called(cell, kind, gradient=gradient) for gradient in (False, True))
            self._rates[name] = Rate(
                seconds=(self._seconds(plain, cell, "float32"), self._seconds(graph, cell, precision)),
                units=(_units(plain, cell), _units(graph, cell)),
            )
        return self._rates[name]

    def _called(self, cell: Cell, kind: Gradient, *, gradient: bool) -> Called:
        if gradient and kind == "none":
            return Called(scores={}, classifiers={})
        name = f"{name_rate(cell, kind if gradient else 'exact', 'float32')} {gradient}"
        if name not in self._calls:
            asked: Gradient = kind if gradient else cell.threat.gradient
            self._calls[name] = count_calls(cell, asked, gradient=gradient)
        return self._calls[name]

    def _seconds(self, called: Called, cell: Cell, precision: Precision) -> float:
        """Score networks compute in the attack's precision; of classifiers TF32 alone changes the arithmetic."""
        rates = self.card.sustained
        scores = sum(_operations(flops_of_score(name, cell), passes) for name, passes in called.scores.items())
        rest = sum(_operations(flops_of_classifier(name, cell), passes) for name, passes in called.classifiers.items())
        return scores / rates[precision] + rest / rates["tf32" if precision == "tf32" else "float32"]


def _operations(flops: Flops, passes: Passes) -> float:
    return passes.forward * flops.forward + passes.backward * flops.backward


def _units(called: Called, cell: Cell) -> float:
    """Network evaluations as a run counts them: of the cell's score network, else of the classifier that answers."""
    counted = [called.scores[cell.score]] if cell.score in called.scores else list(called.classifiers.values())
    return sum(passes.forward + passes.backward for passes in counted)
