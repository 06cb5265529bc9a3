"""The runner: cells into the store, batch by batch, shared with any number of other processes.

A batch, the gates and the summary of a cell are units that one process claims at a time (`bench.store.claims`), so that
whatever stops a process loses at most the unit in flight. The code of a cell runs as a guest (`bench.run.guest`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from bench.attacks._convergence import write_convergence
from bench.cell import Cell
from bench.evidence import Vault
from bench.literature.verdict import verdict_columns
from bench.records import BatchRecord
from bench.run.contract import BrokenContract, check_contract
from bench.run.gating import check_gates, find_gated, has_every_gate
from bench.run.guest import CellTimeout, Guests
from bench.run.intact import ChangedNetwork
from bench.run.keeping import describe_evidence, kept_images
from bench.run.measuring import describe_cost, measure_batch
from bench.run.prepare import Loader, Prepared, licences_of, weights_of
from bench.run.provenance import describe_origin, hash_own_code, own_code_in
from bench.run.saved import save_attack
from bench.run.work import Heart, Outcome, Sharing, WatchedTrace, Watcher
from bench.statistics import summarize
from bench.store import Claim, LostClaim, Store, StoreError
from defenses.base import Defended
from defenses.memory import is_out_of_memory

SAME = ("commit_hash", "packages", "precision", "weights", "batch_size")  # must match to continue a run
LOOK_AGAIN = 60.0  # seconds after which a process that waits looks at each cell again
MORE_MEMORY = "Give the cell a smaller `batch_size` in its grid file, or run it where there is more memory."


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    loader: Loader,
    watcher: Watcher,
    *,
    grid: str,
    force: bool = False,
    gates: Collection[str] = (),
    sharing: Sharing = Sharing(),  # noqa: B008 - frozen
    vault: Vault | None = None,
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
        force: run again what is done, and what is unfinished; its old rows stay.
        gates: names of attacks whose quick cells get all validity gates.
        sharing: how the work is shared with other processes.
        vault: where the adversarial images are kept; None keeps none.

    Returns:
        The cells by how they ended.

    Raises:
        LookupError: a cell names a published number that does not exist; nothing has run then.
        KeyboardInterrupt: from the user; the cell in flight can be continued.
    """
    store.check_published(cell.published for cell in cells)
    if vault is not None:
        vault.check()
    if force:
        sharing = replace(sharing, after=store.last_run())
    outcome, gated, left = Outcome(), find_gated(cells), list(enumerate(cells))
    with Heart(store, sharing.lease) as heart, Guests(sharing.cell_timeout) as guests:
        worker = _Worker(store, loader, watcher, heart, guests, sharing, grid, vault)
        worker.remember_failures(cells)
        while left:
            still, moved = [], False
            for number, cell in left:
                if worker.is_held(cell):
                    still.append((number, cell))
                    continue
                watcher.begin_cell(number, len(cells), cell)
                every = has_every_gate(cell, gates)
                status, text = worker.visit(cell, every if cell.key in gated else None)
                moved |= status != "busy"
                if status == "again" or (status == "busy" and sharing.wait):
                    still.append((number, cell))
                else:
                    getattr(outcome, status).append(cell)
                    watcher.end_cell(cell, status, text)
            left = still
            if left and not moved:
                worker.wait_for_others([cell for _, cell in left])
    return outcome


def is_done(store: Store, cell: Cell, after: int = 0) -> bool:
    """Whether the newest successful run of a cell used the weights and the user's own code that are here now.

    Args:
        store: the results.
        cell: the cell.
        after: runs up to this number do not count.
    """
    run = store.latest_done(cell.key)
    if run is None or run["id"] <= after:
        return False
    if own_code_in(run["packages"] or {}) != hash_own_code(cell.defense, cell.attack):
        return False
    try:
        return run["weights"] == weights_of(cell)
    except LookupError:  # weights that are gone do not undo a measurement
        return True


class _Worker:
    """One process's part of the cells."""

    def __init__(
        self,
        store: Store,
        loader: Loader,
        watcher: Watcher,
        heart: Heart,
        guests: Guests,
        sharing: Sharing,
        grid: str,
        vault: Vault | None,
    ) -> None:
        self.store, self.loader, self.watcher, self.heart, self.guests = store, loader, watcher, heart, guests
        self.sharing, self.grid, self.vault = sharing, grid, vault
        self._origins: dict[str, dict[str, Any]] = {}
        loader.tell(watcher.show_step)
        self._known: dict[str, int] = {}  # cell -> its newest finished run that is of other weights or code
        self._tries: dict[str, int] = {}
        self._failures: dict[int, int] = {}
        self._told: set[str] = set()
        self._contracts: dict[str, str | None] = {}
        self._claim: Claim | None = None
        self._held: set[str] = set()
        self._looked = float("-inf")
        self._passed: set[str] = set()  # cells that others held: when they are done, it was elsewhere
        self._moments = random.Random()  # of its own: it moves no number

    def remember_failures(self, cells: Sequence[Cell]) -> None:
        """Note what failed before this command: it is tried again, whatever its number of failures."""
        for cell in cells:
            runs = self.store.runs_of(cell.key)
            self._failures |= {run["id"]: run["failures"] for run in runs if run["failures"]}

    def visit(self, cell: Cell, every: bool | None) -> tuple[str, str]:
        """Do what can be done of a cell now.

        Args:
            cell: the cell.
            every: all validity gates, or the cheap ones alone; None is no gates.

        Returns:
            How it ended, as in `Outcome`; or "again" where there may be more to do, "busy" where others hold all of it.
            With a line about it.
        """
        made_by: dict[str, Any] = {}
        run_id: int | None = None
        try:
            if (seen := self._find_done(cell)) is not None:
                return seen
            with self.guests.hosting(cell.key):
                made_by = self._describe(cell)
            joined = self.store.join_run(
                cell.key,
                {name: made_by[name] for name in SAME},
                made_by,
                after=self.sharing.after,
                done_before=self._known.get(cell.key, 0),
                retries=self.sharing.retries,
                failures_before=self._failures,
            )
            run_id = joined.run_id
            if run_id is None:
                return "again", ""
            if joined.given_up:
                return "failed", "failed as often as it may in another process"
            if joined.differs:
                told = f"an unfinished run is not continued, because of other {', '.join(joined.differs)}"
                self.watcher.end_cell(cell, "anew", told)
            return self._share(cell, run_id, every)
        except KeyboardInterrupt:
            self._let_go(run_id)
            raise
        except LostClaim as error:
            self._claim = None
            self.watcher.end_cell(cell, "dropped", str(error))
            return "again", ""
        except (Exception, SystemExit) as error:  # a failed cell is a row, never a hole
            return self._fail(cell, run_id, error, made_by)

    def is_held(self, cell: Cell) -> bool:
        """Whether others hold all of a cell, by a look at most a moment old: no need to visit it, where one waits."""
        if not self.sharing.wait:
            return False
        now = time.monotonic()
        if now - self._looked > self.sharing.poll:
            self._held, self._looked = self.store.find_held(take_over=self.sharing.take_over), now
        if cell.key in self._held:
            self._passed.add(cell.key)
        return cell.key in self._held

    def wait_for_others(self, cells: Sequence[Cell]) -> None:
        """Wait until something of the cells may be free: asked with one question, ever less often."""
        self.tell_waiting(cells)
        keys, begin = {cell.key for cell in cells}, time.monotonic()
        while (waited := time.monotonic() - begin) < LOOK_AGAIN:
            time.sleep(max(self.sharing.poll, waited / 10) * self._moments.uniform(0.7, 1.0))
            if not self.store.are_held(keys, take_over=self.sharing.take_over):
                return

    def tell_waiting(self, cells: Sequence[Cell]) -> None:
        """Say once of each cell that this process waits for others, and who they are."""
        new = [cell for cell in cells if cell.key not in self._told]
        if new:
            self._told |= {cell.key for cell in new}
            holders = {claim["cell_key"]: claim for claim in reversed(self.store.claims())}
            for cell in new:
                if (claim := holders.get(cell.key)) is not None:
                    unit = f"batch {claim['unit']}" if claim["unit"].isdigit() else claim["unit"]
                    until = f"{claim['expires_at']:%H:%M:%S} UTC"
                    self.watcher.end_cell(cell, "waiting", f"{unit} is held by {claim['holder']}, lease until {until}")

    def _find_done(self, cell: Cell) -> tuple[str, str] | None:
        first = cell.key not in self._known
        if first:
            self.store.add_cell(cell.row() | {"grid": self.grid})
        run = self.store.latest_done(cell.key)
        newest = run["id"] if run else 0
        if newest != self._known.get(cell.key) and is_done(self.store, cell, self.sharing.after):
            return (
                ("skipped", "done before")
                if first and cell.key not in self._passed
                else ("elsewhere", "done by another process")
            )
        self._known[cell.key] = newest
        return None

    def _describe(self, cell: Cell) -> dict[str, Any]:
        """The columns of `runs` that say where a number comes from; needs the pictures, and no network yet."""
        if cell.key not in self._origins:
            made_by = describe_origin(self.loader.device) | {"batch_size": cell.batch_size}
            made_by |= {"weights": weights_of(cell), "licences": licences_of(cell)}
            data = self.loader.pictures(cell)
            used = data.fingerprint_of(self.loader.indices(cell))
            pictures = {"pictures": data.fingerprint(), "pictures_used": used}
            made_by["packages"] |= pictures | hash_own_code(cell.defense, cell.attack)
            self._origins[cell.key] = made_by
        return self._origins[cell.key]

    def _share(self, cell: Cell, run_id: int, every: bool | None) -> tuple[str, str]:
        """Claim unit after unit of a run until it is done or others hold the rest."""
        prepared: Prepared | None = None
        model: Defended | None = None
        starts = range(0, cell.num_images, cell.batch_size)
        while True:
            claim = self.store.claim_unit(
                run_id,
                batches=len(starts),
                gates=every is not None,
                lease=self.sharing.lease,
                take_over=self.sharing.take_over,
            )
            if claim is None:
                return ("busy" if prepared is None else "again"), "is being run by another process"
            self._claim = claim
            with self.heart.keep(claim):
                if prepared is None or model is None:
                    with self.guests.hosting(cell.key):
                        prepared = self.loader.prepare(cell)
                        self._check_contract(prepared)
                        model = prepared.attacking()
                    self._show_images(run_id, cell)
                if claim.unit == "summary":
                    return "done", self._summarize(cell, claim)
                if claim.unit == "gates":
                    self.watcher.show_step("gates", 0)
                    records, folder = self.store.images(run_id), self.loader.data_dir
                    kept = kept_images(self.store, self.vault, run_id)
                    with self.guests.hosting(cell.key):
                        found = check_gates(prepared, records, every=bool(every), data_dir=folder, kept=kept)
                    self.loader.check_intact()
                    self.store.save_gates(claim, found)
                else:
                    self._run_batch(prepared, model, claim)
            self._claim = None
            if claim.unit != "gates":
                self._show_images(run_id, cell)

    def _check_contract(self, prepared: Prepared) -> None:
        """Check a defense before its first cell; what it said then holds for the others with it too."""
        cell = prepared.cell
        asked = repr((cell.defense.name, cell.defense.params(), cell.threat.gradient, cell.classifier, cell.score))
        key = f"{asked} {cell.dataset} {hash_own_code(cell.defense)}"
        if key not in self._contracts:
            try:
                check_contract(prepared)
                self.loader.check_intact()  # before another call could undo what the first one did
                self._contracts[key] = None
            except BrokenContract as error:
                self._contracts[key] = str(error)
        if (said := self._contracts[key]) is not None:
            raise BrokenContract(said)

    def _show_images(self, run_id: int, cell: Cell) -> None:
        done = self.store.count_images(run_id)
        if done:
            self.watcher.show_images(done, cell.num_images)

    def _run_batch(self, prepared: Prepared, model: Defended, claim: Claim) -> None:
        cell, number = prepared.cell, int(claim.unit)
        start = number * cell.batch_size
        rows = slice(start, min(start + cell.batch_size, len(prepared.indices)))
        trace = WatchedTrace(self.watcher.show_step, self.heart.check)
        found: list[Tensor] = []
        with self.guests.hosting(cell.key):
            made_by = {**self._origins[cell.key], "compiled": self.loader.backend}
            saved = save_attack(cell, (self.store.where, claim.run_id), number, made_by, self.sharing.save_every)
            if saved is not None and saved.told:
                self.watcher.end_cell(cell, "continued", saved.told)
            records, seconds, units = measure_batch(prepared, model, rows, trace, found.append, saved)
        self.loader.check_intact()
        device = self._origins[cell.key]["device"]
        cost = {"seconds": seconds, "network_evaluations": units, **describe_cost(prepared, units)}
        batch = BatchRecord(number=number, curve=trace.curve(), device=device, **cost)
        if self.vault is not None:  # before the row: a kill in between leaves a file without a row, never the reverse
            self.heart.check()
            kept = self.vault.keep(cell.key, number, found[0].cpu().numpy(), records, describe_evidence(cell, number))
            batch = replace(batch, evidence=kept.place, evidence_sha256=kept.sha256)
        self.store.save_batch(claim.run_id, batch, records, trace.notes + prepared.notes(), claim)
        if saved is not None:
            saved.forget()

    def _summarize(self, cell: Cell, claim: Claim) -> str:
        images = self.store.images(claim.run_id)
        summary = summarize(images, stochastic=cell.stochastic, seed=cell.seed)
        self.loader.check_intact()
        known = next((row for row in self.store.published() if row["key"] == cell.published), None)
        judged = verdict_columns(cell.row() | summary, known, cell.defense.published_caveat)
        curve = [point for batch in self.store.batches(claim.run_id) for point in batch.curve]
        self.store.finish_run(claim.run_id, claim, **summary, **judged, notes=write_convergence(curve))
        self._claim = None
        return _write_outcome(summary)

    def _let_go(self, run_id: int | None) -> None:
        """Leave an interrupted run to any process, at once."""
        claim, self._claim = self._claim, None
        with suppress(StoreError):
            if claim is not None:
                self.store.release(claim)
        with suppress(StoreError):
            if run_id is not None:
                self.store.pause_run(run_id)

    def _fail(self, cell: Cell, run_id: int | None, error: BaseException, made_by: dict[str, Any]) -> tuple[str, str]:
        claim, self._claim = self._claim, None
        text = f"{type(error).__name__}: {error}"
        try:
            if run_id is None:
                known = made_by or describe_origin(self.loader.device) | {"batch_size": cell.batch_size}
                self.store.fail_cell(cell.key, error, known, after=self.sharing.after)
            else:
                remedy = MORE_MEMORY if is_out_of_memory(error) else None
                self.store.fail_run(run_id, error, remedy, claim)
        except LostClaim:
            return "again", ""
        except Exception as second:  # whatever happens while a failure is stored, the other cells go on
            text += f" (and it could not be stored: {second})"
        with suppress(ChangedNetwork):  # the next cell gets its networks as they lie on disk
            self.loader.check_intact()
        self._tries[cell.key] = self._tries.get(cell.key, 0) + 1
        if self._tries[cell.key] > self.sharing.retries or isinstance(error, (BrokenContract, CellTimeout)):
            return "failed", text
        self.watcher.end_cell(cell, "retried", text)
        return "again", ""


def _write_outcome(summary: dict[str, Any]) -> str:
    return (
        f"clean {summary['clean_accuracy']:.1f} %, robust {summary['robust_accuracy']:.1f} % "
        f"[{summary['robust_low']:.1f}, {summary['robust_high']:.1f}]"
    )
