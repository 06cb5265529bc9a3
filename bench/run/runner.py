"""The runner: cells into the store, batch by batch, so that whatever stops it loses at most the batch in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.attacks.base import Trace
from bench.cell import Cell
from bench.evaluate import evaluate
from bench.literature.verdict import verdict_columns
from bench.records import BatchRecord, ImageRecord
from bench.run.gating import check_gates
from bench.run.intact import ChangedNetwork
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared, weights_of
from bench.run.provenance import describe_origin, hash_own_code, own_code_in
from bench.statistics import summarize
from bench.store import Store
from defenses.base import Defended

SAME = ("commit_hash", "packages", "device", "precision", "weights", "batch_size")  # must match to continue a run
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
MORE_MEMORY = "Give the cell a smaller `batch_size` in its grid file, or run it where there is more memory."


class Watcher(Protocol):
    """Is told what happens; the progress display of the command line is one."""

    def begin_cell(self, number: int, total: int, cell: Cell) -> None:
        """A cell begins (or is found done)."""

    def show_images(self, done: int, total: int) -> None:
        """Images of the cell that are finished."""

    def show_step(self, attack: str, step: int) -> None:
        """An attack took a step."""

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        """A cell ended: status "done", "skipped", "busy" or "failed", and a line about it."""


@dataclass
class Outcome:
    """What `run_cells` did: cells by how they ended.

    Attributes:
        done: measured now.
        skipped: measured before.
        busy: left to another process that is running them.
        failed: ended by an error, which the database keeps.
    """

    done: list[Cell] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)
    busy: list[Cell] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)


class _WatchedTrace(Trace):
    """A trace that also tells a watcher about every step."""

    def __init__(self, tell: Callable[[str, int], None]) -> None:
        super().__init__()
        self._tell = tell

    def point(self, attack: str, step: int, image_ids: Tensor, loss: Tensor, correct: Tensor) -> None:
        super().point(attack, step, image_ids, loss, correct)
        self._tell(attack, step)


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    loader: Loader,
    watcher: Watcher,
    *,
    grid: str,
    force: bool = False,
    gates: Collection[str] = (),
) -> Outcome:
    """Run the cells that have not run yet; one that fails becomes a row with its error, and the others go on.

    The first cell of each group that differs in seeds alone gets validity gates: the cheap ones (`bench.gates.ALWAYS`)
    in the quick tier, else all.

    Args:
        cells: what to measure, in this order.
        store: where the results go.
        loader: where data sets and networks come from.
        watcher: is told what happens.
        grid: the name of the grid, stored with each cell.
        force: run again what is done (its old rows stay), and what another host seems to be running.
        gates: names of attacks whose quick cells get all validity gates.

    Returns:
        The cells by how they ended.

    Raises:
        LookupError: a cell names a published number that does not exist; nothing has run then.
        KeyboardInterrupt: from the user; the cell in flight can be continued.
    """
    store.check_published(cell.published for cell in cells)
    outcome, gated = Outcome(), find_gated(cells)
    for number, cell in enumerate(cells):
        watcher.begin_cell(number, len(cells), cell)
        store.add_cell(cell.row() | {"grid": grid})
        if not force and is_done(store, cell):
            outcome.skipped.append(cell)
            watcher.end_cell(cell, "skipped", "done before")
        elif not force and (other := _find_holder(store, cell)) is not None:
            outcome.busy.append(cell)
            held = f"is being run by process {other['pid']} on {other['host']}; if that was killed, use --take-over"
            watcher.end_cell(cell, "busy", held)
        else:
            every = cell.tier != "quick" or cell.attack.name in gates
            _run_cell(cell, store, loader, watcher, outcome, force, every if cell.key in gated else None)
    return outcome


def find_gated(cells: Sequence[Cell]) -> set[str]:
    """Find the keys of the cells that are the first among those that differ in seed and data seed alone.

    Their gates stand for the group's: a gate asks about the defense and the attack, at the cost of a dozen attacks.
    """
    firsts: dict[str, str] = {}
    for cell in cells:
        firsts.setdefault(replace(cell, seed=0, data_seed=0).key, cell.key)
    return set(firsts.values())


def is_done(store: Store, cell: Cell) -> bool:
    """Whether the newest successful run of a cell used the weights and the user's own code that are here now."""
    run = store.latest_done(cell.key)
    if run is None or own_code_in(run["packages"] or {}) != hash_own_code(cell.defense, cell.attack):
        return False
    try:
        return run["weights"] == weights_of(cell)
    except LookupError:  # weights that are gone do not undo a measurement
        return True


def _find_holder(store: Store, cell: Cell) -> dict[str, Any] | None:
    for run in store.runs_of(cell.key):
        if run["status"] == "running" and store.is_alive(run["host"], run["pid"]):
            return run
    return None


def _run_cell(
    cell: Cell, store: Store, loader: Loader, watcher: Watcher, outcome: Outcome, force: bool, every: bool | None
) -> None:
    made_by = describe_origin(loader.device) | {"batch_size": cell.batch_size}
    run_id: int | None = None
    try:
        prepared = loader.prepare(cell)
        made_by |= {"weights": prepared.weights, "licences": prepared.licences}
        made_by["packages"] |= {
            "pictures": prepared.data.fingerprint(),
            "pictures_used": prepared.data.fingerprint_of(prepared.indices),
        } | hash_own_code(cell.defense, cell.attack)
        found = None if force else store.resumable_run(cell.key, {name: made_by[name] for name in SAME})
        run_id, finished = found if found else (store.start_run(cell.key, **made_by), set())
        _run_batches(prepared, loader, store, watcher, run_id, finished)
        records = store.images(run_id)
        summary = summarize(records, stochastic=cell.defense.stochastic, seed=cell.seed)
        watcher.show_step("gates", 0)
        checked = None if every is None else check_gates(prepared, records, every=every, data_dir=loader.data_dir)
        loader.check_intact()
        known = next((row for row in store.published() if row["key"] == cell.published), None)
        judged = verdict_columns(cell.row() | summary, known, cell.defense.published_caveat)
        store.finish_run(run_id, **summary, gates=checked, **judged)
    except KeyboardInterrupt:
        if run_id is not None:
            store.pause_run(run_id)
        raise
    except Exception as error:  # a failed cell is a row, never a hole
        run_id = run_id if run_id is not None else store.start_run(cell.key, **made_by)
        store.fail_run(run_id, error, MORE_MEMORY if isinstance(error, OUT_OF_MEMORY) else None)
        with suppress(ChangedNetwork):  # the next cell gets its networks as they lie on disk
            loader.check_intact()
        outcome.failed.append(cell)
        watcher.end_cell(cell, "failed", f"{type(error).__name__}: {error}")
    else:
        outcome.done.append(cell)
        watcher.end_cell(cell, "done", _write_outcome(summary))


def _run_batches(
    prepared: Prepared, loader: Loader, store: Store, watcher: Watcher, run_id: int, finished: set[int]
) -> None:
    cell = prepared.cell
    model, total = prepared.model(), len(prepared.indices)
    starts = range(0, total, cell.batch_size)
    for number, start in enumerate(starts):
        rows = slice(start, min(start + cell.batch_size, total))
        if number not in finished:
            trace = _WatchedTrace(watcher.show_step)
            records, seconds, units = _measure(prepared, model, rows, trace)
            loader.check_intact()
            batch = BatchRecord(number=number, seconds=seconds, network_evaluations=units, curve=trace.curve())
            store.save_batch(run_id, batch, records, trace.notes)
        watcher.show_images(rows.stop, total)


def _measure(prepared: Prepared, model: Defended, rows: slice, trace: Trace) -> tuple[list[ImageRecord], float, int]:
    """Measure one batch: the records of its images, seconds, network evaluations."""
    cell, (images, labels, ids) = prepared.cell, prepared.batch(rows)
    begin = time.perf_counter()
    with Meter(prepared.counted(model)) as meter:
        records = evaluate(
            model,
            cell.attack,
            images,
            labels,
            ids,
            cell.threat,
            draws=cell.judging_draws,
            seed=cell.seed,
            stochastic=cell.defense.stochastic,
            trace=trace,
        )
        return records, time.perf_counter() - begin, meter.take()


def _write_outcome(summary: dict[str, Any]) -> str:
    return (
        f"clean {summary['clean_accuracy']:.1f} %, robust {summary['robust_accuracy']:.1f} % "
        f"[{summary['robust_low']:.1f}, {summary['robust_high']:.1f}]"
    )
