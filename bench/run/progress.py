"""How far a run is and how long it will take: work counted in network evaluations, timed as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.attacks.base import UNSEEN, Attack
from bench.attacks.cascade import Cascade
from bench.attacks.gold import REFERENCE_EPSILON, Gold
from bench.cell import Cell
from bench.run.gating import count_gate_answers, find_gated, has_every_gate

DEAR = {"exact": 4.0, "guidance_detached": 4.0, "adjoint": 5.0, "surrogate": 2.0, "transfer": 0.1, "none": 0.1}
"""Gradient kind -> what an answer with it costs, in answers without: its passes forward, again and backward."""
SETTLED = 0.02  # of a cell: what is done before an estimate means anything


def count_judged(cell: Cell) -> int:
    """Count the answers that the judge asks for a usual image: see `bench.evaluate`."""
    if not cell.defense.stochastic:
        return 5  # clean, attacked, attacked and rounded to 8 bits, and two draws that must agree
    return 4 * cell.judging_draws + (0 if cell.threat.gradient in UNSEEN else cell.attack.usual_looks())


def count_steps(attack: Attack) -> int | None:
    """Count the steps that an attack reports for a batch, at most; None where nothing says so."""
    whole = attack.cascade(REFERENCE_EPSILON) if isinstance(attack, Gold) else attack
    if isinstance(whole, Cascade):
        counts = [count_steps(member) for member in whole.made()]
        return None if None in counts else sum(count or 0 for count in counts)
    fields = attack.params()
    steps, restarts = fields.get("steps"), fields.get("restarts", 1)
    if not isinstance(steps, int):
        return None
    judged = attack.name == "pgd_eot" and (restarts > 1 or fields.get("select") == "best")
    return restarts * (steps + judged)


class Progress:
    """What is done of a run, and what is left.

    Attributes:
        images: finished images of the current cell.
        steps: steps that the attack took on the current batch.
        expected: steps that it takes on a batch; None where nothing says so.
    """

    def __init__(self, cells: Sequence[Cell], gated: Callable[[Cell], bool | None], clock: Callable[[], float]) -> None:
        """Nothing is done yet.

        Args:
            cells: of the run, in order.
            gated: cell -> whether it gets all validity gates, or the cheap ones; None is none.
            clock: seconds.
        """
        self._cells, self._gated, self._clock = list(cells), gated, clock
        self._rates: dict[str, float] = {}  # network -> seconds an evaluation
        self._number, self._begin, self._base = 0, clock(), 0.0
        self.images, self.steps = 0, 0
        self.expected: int | None = None

    def begin(self, number: int, cell: Cell) -> None:
        """A cell begins."""
        self._number, self._begin, self._cell = number, self._clock(), cell
        self.images, self.steps, self._base = 0, 0, -1.0
        try:
            self.expected = count_steps(cell.attack)
        except Exception:
            self.expected = None

    def finish_images(self, done: int) -> None:
        """A batch is finished, or found finished."""
        self.images, self.steps = done, 0
        self._time_from_here()

    def take_step(self, attack: str) -> None:
        """The attack took a step, or the gates begin, or networks are compiled."""
        self.steps += is_step(attack)
        self._time_from_here()

    def _time_from_here(self) -> None:
        """The clock of a cell starts after its networks are loaded, and counts what was not done by then."""
        if self._base < 0:
            self._begin, self._base = self._clock(), self._done()

    def end(self) -> None:
        """The current cell is measured: its speed counts for those of the same network."""
        work, spent = self._work(self._cell) - max(self._base, 0.0), self._clock() - self._begin
        if self._base >= 0 and work > 0 and spent > 0:
            self._rates[_network(self._cell)] = spent / work

    def left(self) -> tuple[float | None, float | None]:
        """Seconds left of the current cell, and of the run; None where nothing is known yet."""
        cell, whole, done = self._cell, self._work(self._cell), self._done()
        fresh, spent = done - max(self._base, 0.0), self._clock() - self._begin
        known = self._rates.get(_network(cell))
        settled = self._base >= 0 and fresh >= SETTLED * whole and spent > 0
        rate = spent / fresh if settled else known
        if rate is None:
            return None, None
        rates = {**self._rates, _network(cell): rate}
        of_cell = max(0.0, whole - done) * rate
        ahead = self._cells[self._number + 1 :]
        if any(_network(other) not in rates for other in ahead):
            return of_cell, None
        return of_cell, of_cell + sum(self._work(other) * rates[_network(other)] for other in ahead)

    @property
    def share(self) -> float:
        """Part of the current cell that is done, in [0, 1]."""
        return min(1.0, self._done() / max(self._work(self._cell), 1e-9))

    def _done(self) -> float:
        """Work that is done of the current cell."""
        cell, each = self._cell, self._per_image(self._cell)
        batch = min(cell.batch_size, cell.num_images - self.images)
        share = min(1.0, self.steps / self.expected) if self.expected else 0.0
        return self.images * each + batch * share * _attack_cost(cell)

    def _per_image(self, cell: Cell) -> float:
        return _attack_cost(cell) + _judged(cell) * _evaluations(cell)

    def _work(self, cell: Cell) -> float:
        return cell.num_images * self._per_image(cell) + _gate_cost(cell, self._gated(cell))


def _evaluations(cell: Cell) -> int:
    try:
        return max(1, int(cell.defense.network_evaluations))
    except Exception:  # code of the user's: an estimate is not worth a cell
        return 1


def _judged(cell: Cell) -> int:
    try:
        return count_judged(cell)
    except Exception:
        return 1


def _gate_cost(cell: Cell, every: bool | None) -> float:
    try:
        return 0.0 if every is None else _cost(cell, count_gate_answers(cell, every=every))
    except Exception:
        return 0.0


def _attack_cost(cell: Cell) -> float:
    """Evaluations that the attack asks for each image."""
    try:
        return _cost(cell, cell.attack.usual_queries())
    except Exception:  # an attack of the user's that cannot count its queries
        return _cost(cell, (0.0, 1.0))


def _cost(cell: Cell, answers: tuple[float, float]) -> float:
    """Evaluations behind answers without a gradient and with one."""
    plain, differentiated = map(float, answers)
    return (plain + differentiated * DEAR.get(cell.threat.gradient, 1.0)) * _evaluations(cell)


def _network(cell: Cell) -> str:
    return f"score {cell.score}" if cell.score else f"{cell.classifier} {cell.defense.name}"


def always_shown(cell: Cell) -> dict[str, Any]:
    """Columns with the fields of a defense that its name always carries, such as the model of adversarial training."""
    fields = {name: str(getattr(cell.defense, name)) for name in cell.defense.always_shown}
    return {"defense_always": tuple(fields), "defense_texts": fields}


def is_step(attack: str) -> bool:
    """Whether what a watcher is shown is a step of an attack."""
    return attack != "gates" and not attack.startswith("compiling ")


def write_time(seconds: float) -> str:
    """Write a time span as a person reads it: "90 s", "4 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def start(cells: Sequence[Cell], gates: Sequence[str] = ()) -> Progress:
    """The progress of a run that begins now.

    Args:
        cells: of the run, in order.
        gates: names of attacks whose quick cells get all validity gates.
    """
    keys = find_gated(cells)

    def every(cell: Cell) -> bool | None:
        if cell.key not in keys:
            return None
        return has_every_gate(cell, gates)

    return Progress(cells, every, time.perf_counter)
