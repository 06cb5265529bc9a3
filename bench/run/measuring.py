"""One batch of a prepared cell: attacked, judged, timed and counted."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from bench.attacks.base import Trace
from bench.evaluate import evaluate
from bench.records import ImageRecord
from bench.run.meter import Meter
from bench.run.prepare import Prepared
from defenses.base import Defended


def measure_batch(
    prepared: Prepared, model: Defended, rows: slice, trace: Trace, keep: Callable[[Tensor], None]
) -> tuple[list[ImageRecord], float, int]:
    """Measure one batch: the records of its images, seconds, network evaluations."""
    cell, (images, labels, ids) = prepared.cell, prepared.batch(rows)
    begin = time.perf_counter()
    with Meter(*prepared.counted(model)) as meter:
        records = evaluate(
            model,
            cell.attack,
            images,
            labels,
            ids,
            cell.threat,
            draws=cell.judging_draws,
            seed=cell.seed,
            stochastic=cell.stochastic,
            trace=trace,
            keep=keep,
        )
        return records, time.perf_counter() - begin, meter.take()
