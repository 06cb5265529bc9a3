"""What an answer costs on this device, timed at the rows of a pass that the run will use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from bench.attacks.base import NoSuchAttack, Oracle
from bench.cell import Cell
from bench.datasets import load_dataset
from bench.run.answers import rows_of_attack
from bench.run.gating import judged_rows
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared, names_of
from defenses.base import Defended, Gradient
from defenses.models.classifiers import classifier_info
from defenses.models.scores import score_info
from defenses.precision import Precision, arithmetic

FIRST, GROWTH = 8, 4  # rows of the first pass, and how they grow
MOST = 0.6  # seconds of a pass: no more rows are tried then
BETTER = 0.9  # of the time of a row: where four times the rows save less, no more are tried


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The cost of one answer for one image.

    Attributes:
        seconds: seconds without and with a gradient.
        units: network evaluations without and with a gradient.
    """

    seconds: tuple[float, float]
    units: tuple[float, float]

    def price(self, plain: float, graph: float) -> tuple[float, float]:
        """Seconds and network evaluations of so many answers without and with a gradient."""
        seconds, units = (plain * each[0] + graph * each[1] for each in (self.seconds, self.units))
        return seconds, units


class Rates(Protocol):
    """Where rates come from.

    Attributes:
        place: what they are of, for a sentence.
        remark: how far they can be trusted.
    """

    place: str
    remark: str

    def find_missing(self, cell: Cell) -> dict[str, str]:
        """Name -> where to get it, of everything without which there is no rate."""
        ...

    def rate(self, cell: Cell, kind: Gradient, precision: Precision | None) -> Rate:
        """The cost of an answer of the cell's defense under a kind of gradient.

        Args:
            cell: the cell.
            kind: of gradient.
            precision: of the gradient, as the attack takes it; None is a validity gate's.
        """
        ...


class Here:
    """Rates of this device, each timed once."""

    def __init__(self, loader: Loader, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing is timed yet.

        Args:
            loader: the device, and where data sets and networks come from.
            clock: seconds.
        """
        self.loader, self.clock = loader, clock
        self.place, self.remark = str(loader.device), "a short timing"
        if loader.backend is not None:
            self.remark += " of compiled networks, without what compiling them takes"
        self._rates: dict[str, Rate] = {}

    def find_missing(self, cell: Cell) -> dict[str, str]:
        """Name -> where to get it, of every data set and network behind a cell that is not on this machine."""
        classifiers, scores = names_of(cell)
        checks: dict[str, Callable[[], object]] = {
            cell.dataset: partial(load_dataset, cell.dataset, data_dir=self.loader.data_dir),
            **{name: partial(_find, classifier_info, name) for name in classifiers},
            **{name: partial(_find, score_info, name) for name in scores},
        }
        found = {}
        for name, check in checks.items():
            try:
                check()
            except LookupError as error:
                found[name] = str(error)
        return found

    def rate(self, cell: Cell, kind: Gradient, precision: Precision | None) -> Rate:
        """See `Rates.rate`; the attack's gradients are those of compiled networks where the loader compiles."""
        rows = (judged_rows(cell), rows_of_attack(cell))
        attacking = precision is not None and self.loader.compiling is not None
        precision = precision or "float32"
        name = f"{name_rate(cell, kind, precision)} {rows} {attacking}"
        if name not in self._rates:
            ready = self.loader.prepare(cell.attacked_in(precision))
            self._rates[name] = time_answers(ready, kind, rows, self.clock, compiled=attacking)
        return self._rates[name]


def name_rate(cell: Cell, kind: Gradient, precision: Precision) -> str:
    """What a rate follows from, beside the rows of a pass."""
    defense = f"{cell.defense.name} {cell.defense.params()}"
    return f"{cell.dataset} {cell.classifier} {cell.score} {defense} {kind} {precision} {cell.threat.noise}"


def _find(info: Callable[[str], Any], name: str) -> None:
    info(name).find()


def time_answers(
    prepared: Prepared,
    kind: Gradient,
    rows: tuple[int, int],
    clock: Callable[[], float] = time.perf_counter,
    *,
    compiled: bool = False,
) -> Rate:
    """Time answers without and with a gradient.

    Args:
        prepared: the cell.
        kind: of gradient.
        rows: of a pass without and with a gradient, in the run.
        clock: seconds.
        compiled: whether gradients are those of compiled networks, which the cell was prepared with.
    """
    model = prepared.attacking(kind) if compiled else prepared.attacked(kind)
    plain, graph = (
        _Probe(prepared, model, gradient, clock, compiled=compiled and gradient).time(most)
        for most, gradient in zip(rows, _BOTH, strict=True)
    )
    return Rate(seconds=(plain[0], graph[0]), units=(plain[1], graph[1]))


_BOTH = (False, True)  # without a gradient, with one


class _Probe:
    """Times passes of one kind."""

    def __init__(
        self, prepared: Prepared, model: Defended, gradient: bool, clock: Callable[[], float], *, compiled: bool
    ) -> None:
        self.prepared, self.model, self.gradient, self.clock, self.compiled = prepared, model, gradient, clock, compiled

    def time(self, most: int) -> tuple[float, float]:
        """Seconds and network evaluations of a row, in passes that grow to those of the run, or until growth is idle.

        Args:
            most: rows of a pass of the run.
        """
        with Meter(*self.prepared.counted(self.model)) as meter:
            rows, before = min(FIRST, most), math.inf
            try:
                self._ask(rows, meter)  # warms up
                while True:
                    if self.compiled:
                        self._ask(rows, meter)  # compiles for so many rows
                    spent, units, asked = self._ask(rows, meter)
                    if asked >= most or spent > MOST or spent / asked > BETTER * before:
                        break
                    before, rows = spent / asked, min(most, rows * GROWTH)
                again, *_ = self._ask(rows, meter)
            except NoSuchAttack:  # no gradient of this kind: the attack will not ask for one
                return 0.0, 0.0
        return min(spent, again) / asked, units / asked

    def _ask(self, rows: int, meter: Meter) -> tuple[float, int, int]:
        """Seconds, network evaluations and rows of one pass, of a batch on one draw or several as an attack asks."""
        cell, device = self.prepared.cell, self.prepared.device
        images, labels, ids = self.prepared.batch(slice(0, min(rows, cell.batch_size, cell.num_images)))
        eot = -(-rows // len(images))
        oracle = Oracle(self.model, labels, ids, seed=0, eot=eot, role="forecast")
        meter.take()
        begin = self.clock()
        with arithmetic(self.model.attack_precision if self.gradient else "float32"):
            (oracle.gradient if self.gradient else oracle.evaluate)(images, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return self.clock() - begin, meter.take(), eot * len(images)
