"""What a run would do and cost, from a short timing of each defense on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.attacks.base import Oracle
from bench.cell import Cell
from bench.datasets import load_dataset
from bench.epsilon import epsilon_text
from bench.report.labels import set_labels
from bench.run.gating import count_gate_answers, has_every_gate
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared, names_of
from bench.run.progress import always_shown, count_judged, write_time
from bench.run.runner import is_done
from bench.store import Store, StoreError
from bench.store.database import parse_url, sqlite_path
from defenses.models.classifiers import classifier_info
from defenses.models.scores import score_info
from defenses.precision import arithmetic

PROBE = 8  # images of a timing


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The cost of one answer for one image.

    Attributes:
        seconds: seconds without and with a gradient.
        units: network evaluations without and with a gradient.
    """

    seconds: tuple[float, float]
    units: tuple[float, float]


@dataclass
class _Group:
    """Cells that differ in seed and data seed alone."""

    cells: list[Cell]
    done: int = 0
    label: str = ""

    @property
    def line(self) -> str:
        """The group in words, before what is to be said of it."""
        runs = f", {len(self.cells)} runs" if len(self.cells) > 1 else ""
        finished = f", {self.done} done" if self.done else ""
        return f"{self.cells[0].key[:6]}  {self.label}{runs}{finished}"


def forecast(cells: Sequence[Cell], db: str, loader: Loader, gates: Collection[str] = ()) -> Iterator[str]:
    """Say what a run would do and cost, line by line; nothing is downloaded.

    Args:
        cells: the cells of the run.
        db: path or URL of the result database; what is done there costs nothing.
        loader: the device and the folder of data sets.
        gates: names of attacks whose quick cells get all validity gates.

    Returns:
        A line for each group of cells that differ in seeds alone, with network evaluations and time or what is missing,
        as soon as its defense is timed; then the missing files and the sum.
    """
    store = _open(db)
    rates: dict[str, Rate] = {}
    absent: dict[str, str] = {}
    seconds = units = checks = unknown = 0.0
    for group in _group_cells(cells, store):
        cell, left = group.cells[0], len(group.cells) - group.done
        if not left:
            yield f"{group.line}: done" if len(group.cells) == 1 else group.line
            continue
        missing = _find_missing(cell, loader)
        absent |= missing
        if missing:
            at_least = left * _count_forward(cell)
            unknown += at_least
            yield f"{group.line}: at least {at_least:.3g} network evaluations; missing {', '.join(missing)}"
            continue
        try:
            rate, judged = (
                _find_rate(some, loader, rates) for some in (cell, replace(cell, attack_precision="float32"))
            )
        except Exception as error:  # as in a run, where a cell that fails is a row
            yield f"{group.line}: would fail: {error}"
            continue
        cost, evaluations = (left * value for value in _estimate_cost(cell, rate))
        extra, gated = _estimate_gates(cell, judged, gates)
        seconds, units, checks = seconds + cost + extra, units + evaluations, checks + gated
        share = f", {gated:.3g} for its gates" if gated else ""
        yield f"{group.line}: {evaluations:.3g} network evaluations{share}, {write_time(cost + extra)}"
    yield from (f"Missing {name}: {message}" for name, message in absent.items())
    yield (
        f"In all {units:.3g} network evaluations, and {checks:.3g} at most for validity gates, about "
        f"{write_time(seconds)} on {loader.device} (a rough timing)."
    )
    if absent:
        yield (
            f"The cells whose files are missing need at least {unknown:.3g} network evaluations more. `bench fetch` "
            "downloads the files that have a public address."
        )


def _find_rate(cell: Cell, loader: Loader, rates: dict[str, Rate]) -> Rate:
    """The rate of a cell's defense under its kind of gradient and its precision, timed once."""
    name = f"{cell.classifier} {cell.score} {cell.defense} {cell.threat.gradient} {cell.attack_precision}"
    if name not in rates:
        rates[name] = _probe(loader.prepare(cell))
    return rates[name]


def _group_cells(cells: Sequence[Cell], store: Store | None) -> list[_Group]:
    found: dict[str, _Group] = {}
    for cell in cells:
        group = found.setdefault(replace(cell, seed=0, data_seed=0).key, _Group([]))
        group.cells.append(cell)
        group.done += store is not None and is_done(store, cell)
    firsts = [group.cells[0] for group in found.values()]
    rows = [cell.row() | always_shown(cell) for cell in firsts]
    set_labels(rows)
    for group, row in zip(found.values(), rows, strict=True):
        threat = f"{row['norm']} {epsilon_text(row['epsilon'])} {row['gradient']}"
        group.label = f"{row['dataset']} {row['classifier']} {row['defense_label']} {row['attack_label']} ({threat})"
    return list(found.values())


def _find_missing(cell: Cell, loader: Loader) -> dict[str, str]:
    """Name -> where to get it, of every data set and network behind a cell that is not on this machine."""
    classifiers, scores = names_of(cell)
    checks: dict[str, Callable[[], object]] = {
        cell.dataset: partial(load_dataset, cell.dataset, data_dir=loader.data_dir),
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


def _find(info: Callable[[str], Any], name: str) -> None:
    info(name).find()


def _open(db: str) -> Store | None:
    try:
        return Store(db, readonly=True)
    except StoreError:
        path = sqlite_path(parse_url(db))
        if path is not None and not path.exists():  # nothing is done
            return None
        raise


def _count_forward(cell: Cell) -> int:
    """Count forward passes of the score network, or of the classifier without a purifier; gradients add to it."""
    answers = sum(cell.attack.usual_queries()) + count_judged(cell)
    return round(cell.num_images * answers * max(1, cell.defense.network_evaluations))


def _estimate_cost(cell: Cell, rate: Rate) -> tuple[float, float]:
    plain, differentiated = cell.attack.usual_queries()
    return _price(cell.num_images * (plain + count_judged(cell)), cell.num_images * differentiated, rate)


def _estimate_gates(cell: Cell, rate: Rate, gates: Collection[str]) -> tuple[float, float]:
    return _price(*count_gate_answers(cell, every=has_every_gate(cell, gates)), rate)


def _price(plain: float, differentiated: float, rate: Rate) -> tuple[float, float]:
    """Seconds and network evaluations of so many answers without and with a gradient."""
    seconds, units = (plain * rates[0] + differentiated * rates[1] for rates in (rate.seconds, rate.units))
    return seconds, units


def _probe(prepared: Prepared) -> Rate:
    """Time two small batches with and without a gradient: the first warms up, the second counts."""
    images, labels, ids = prepared.batch(slice(0, PROBE))
    model = prepared.attacked()
    seconds, units = [], []
    for gradient in (False, True):
        oracle = Oracle(model, labels, ids, seed=0, role="forecast")
        ask = oracle.gradient if gradient else oracle.evaluate
        with Meter(*prepared.counted(model)) as meter:
            for first in (0, 1):
                begin = time.perf_counter()
                try:
                    with arithmetic(model.attack_precision):
                        ask(images, first)
                except ValueError:  # no gradient of this kind: the cell's attack will not ask for one
                    break
                if prepared.device.type == "cuda":
                    torch.cuda.synchronize(prepared.device)
                spent = (time.perf_counter() - begin, meter.take())
            seconds.append(spent[0] / len(images))
            units.append(spent[1] / len(images))
    return Rate(seconds=(seconds[0], seconds[1]), units=(units[0], units[1]))
