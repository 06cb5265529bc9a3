"""One batch of a prepared cell: attacked, judged, timed and counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from bench.attacks.base import Trace
from bench.evaluate import evaluate
from bench.records import ImageRecord
from bench.run.flops import operations_of_call
from bench.run.meter import Meter
from bench.run.prepare import Prepared
from bench.run.saved import SavedAttack
from defenses.base import Defended
from defenses.memory import forget_highest, taken_and_whole


def measure_batch(
    prepared: Prepared,
    model: Defended,
    rows: slice,
    trace: Trace,
    keep: Callable[[Tensor], None],
    saved: SavedAttack | None = None,
) -> tuple[list[ImageRecord], float, int]:
    """Measure one batch: the records of its images, seconds, network evaluations.

    Args:
        prepared: the cell.
        model: as its attack sees it.
        rows: places of the batch among the cell's images.
        trace: receives what the attack reports.
        keep: is given the adversarial images.
        saved: where the attack saves itself; None where it cannot.
    """
    cell, (images, labels, ids) = prepared.cell, prepared.batch(rows)
    forget_highest(prepared.device)
    begin = time.perf_counter()

    def measure() -> list[ImageRecord]:
        return evaluate(
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

    with Meter(*prepared.counted(model)) as meter:
        records = measure() if saved is None else saved.run(measure, trace, meter)
        earlier = 0.0 if saved is None else saved.seconds
        return records, earlier + time.perf_counter() - begin, meter.take()


def describe_cost(prepared: Prepared, units: int) -> dict[str, Any]:
    """Columns of `batches` with the memory that was taken and the operations that were done.

    Args:
        prepared: the cell.
        units: network evaluations of the batch.
    """
    cell = prepared.cell
    taken, whole = taken_and_whole(prepared.device)
    images, *_ = prepared.batch(slice(0, 1))
    name = f"score {cell.score}" if cell.score else f"classifier {cell.classifier} {cell.dataset}"
    network = prepared.score if prepared.score is not None else prepared.classifier
    counted = not cell.defense.networks().classifiers or prepared.score is not None  # else another one was counted
    each = operations_of_call(name, network, images) if counted else None
    return {"peak_bytes": taken, "device_bytes": whole, "operations": None if each is None else each * units}
