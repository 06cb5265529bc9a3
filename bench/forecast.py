"""What a run would do and cost, from a short timing of each defense on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.attacks.base import Oracle
from bench.cell import Cell
from bench.meter import Meter
from bench.prepare import Loader, Prepared
from bench.run import is_done
from bench.store import Store, StoreError

PROBE = 8  # images of a timing


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Cost of one answer for one image: seconds and network evaluations, without and with a gradient."""

    seconds: tuple[float, float]
    units: tuple[float, float]


def forecast(cells: Sequence[Cell], db: str, loader: Loader) -> str:
    """A line a cell: what would happen, network evaluations, time; and the sum."""
    store = _open(db)
    rates: dict[str, Rate] = {}
    lines, seconds, units = [], 0.0, 0.0
    for cell in cells:
        try:
            status = "done" if store is not None and is_done(store, cell) else "to run"
            prepared = loader.prepare(cell)
        except (LookupError, ValueError) as error:
            lines.append(f"{cell.key[:6]}  {cell}: missing: {error}")
            continue
        if status == "done":
            lines.append(f"{cell.key[:6]}  {cell}: done")
            continue
        name = f"{cell.classifier} {cell.score} {cell.defense} {cell.threat.gradient}"
        rates[name] = rates.get(name) or _probe(prepared)
        cost, evaluations = _cost(cell, rates[name])
        seconds, units = seconds + cost, units + evaluations
        lines.append(f"{cell.key[:6]}  {cell}: {evaluations:.3g} network evaluations, {_time(cost)}")
    lines.append(f"In all {units:.3g} network evaluations, about {_time(seconds)} on {loader.device} (timed briefly).")
    return "\n".join(lines)


def _open(db: str) -> Store | None:
    try:
        return Store(db, readonly=True)
    except StoreError:  # none yet: nothing is done
        return None


def _cost(cell: Cell, rate: Rate) -> tuple[float, float]:
    plain, differentiated = cell.attack.queries()
    judged = 3 * cell.judging_draws
    return tuple(  # type: ignore[return-value]
        cell.num_images * ((plain + judged) * rates[0] + differentiated * rates[1])
        for rates in (rate.seconds, rate.units)
    )


def _probe(prepared: Prepared) -> Rate:
    """Time two small batches, with and without a gradient; the second batch counts, the first warms up."""
    images, labels, ids = prepared.batch(slice(0, PROBE))
    model = prepared.model()
    seconds, units = [], []
    for gradient in (False, True):
        oracle = Oracle(model, labels, ids, seed=0, role="forecast")
        ask = oracle.gradient if gradient else oracle.evaluate
        with Meter(prepared.counted) as meter:
            for first in (0, 1):
                begin = time.perf_counter()
                try:
                    ask(images, first)
                except ValueError:  # no gradient of this kind: the cell's attack will not ask for one
                    break
                if prepared.device.type == "cuda":
                    torch.cuda.synchronize(prepared.device)
                spent = (time.perf_counter() - begin, meter.take())
            seconds.append(spent[0] / len(images))
            units.append(spent[1] / len(images))
    return Rate(seconds=(seconds[0], seconds[1]), units=(units[0], units[1]))


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
