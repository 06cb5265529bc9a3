"""The unfinished attack of a batch in a file of the cache folder: what a kill loses is minutes, not the batch."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from bench.attacks._journal import (
    Entry,
    Journal,
    StaleJournal,
    can_continue,
    journaled,
    pack_trace,
    restore_trace,
)
from bench.attacks.base import Trace
from bench.cell import Cell
from bench.run.meter import Meter
from bench.store import StoreError
from defenses.memory import is_out_of_memory
from defenses.models.weights import cache_folder

T = TypeVar("T")
FOLDER = "unfinished"  # in the cache folder
FORGOTTEN = 30 * 86400.0  # seconds after which the file of a run that nobody goes on with is removed
DIGEST = 32  # bytes of a sha256, before the rest of the file


class SavedAttack:
    """The file of one batch. A file that cannot be read, or of another attack, is removed; none stops a batch.

    Attributes:
        path: of the file.
        seconds: that the attack took before it was interrupted, where it goes on.
        told: what is to be said of it, once; empty where it begins.
    """

    def __init__(self, name: str, about: Mapping[str, Any], minutes: float) -> None:
        """Look whether there is one.

        Args:
            name: of the file.
            about: everything that decides the numbers: another one's state is not continued.
            minutes: between two savings, at least 0.
        """
        self.path = cache_folder() / FOLDER / f"{name}.state"
        self._about = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self._every, self._saved, self._begin = 60 * minutes, time.monotonic(), time.monotonic()
        self._trace, self._meter = Trace(), Meter()
        self._state: dict[str, Any] = {}
        self.seconds, self.told = 0.0, ""
        self._past = self._read()
        self._fresh = bool(self._past)  # whether nothing was saved since it goes on

    def run(self, work: Callable[[], T], trace: Trace, meter: Meter) -> T:
        """The answer of work whose attack goes on from the file, and saves itself there now and then.

        Args:
            work: attacks and judges the batch.
            trace: of the batch; holds what it held when the attack is where it was.
            meter: as the trace.
        """
        self._trace, self._meter = trace, meter
        self._begin = self._saved = time.monotonic()
        begun = pack_trace(trace), meter.units
        try:
            with journaled(Journal(self, self._past)):
                return work()
        except StaleJournal:
            self.forget()
            restore_trace(trace, begun[0])
            meter.units, self.seconds = begun[1], 0.0
        except Exception as error:
            at_fault = not isinstance(error, StoreError) and not is_out_of_memory(error)
            if self._fresh and at_fault:  # it may be the state that fails: the next try begins anew
                self.forget()
            raise
        with journaled(Journal(self)):
            return work()

    def is_due(self) -> bool:
        """See `Keeper.is_due`."""
        return time.monotonic() - self._saved >= self._every

    def keep(self, entries: Sequence[Entry]) -> None:
        """See `Keeper.keep`; a folder that cannot be written to keeps nothing."""
        state = {
            "about": self._about,
            "seconds": self.seconds + time.monotonic() - self._begin,
            "units": self._meter.units,
            "trace": pack_trace(self._trace),
        }
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_old(self.path.parent)
            new = self.path.with_suffix(f".{os.getpid()}")
            new.write_bytes(pack(entries, state))
            new.replace(self.path)
            self._fresh = False
        self._saved = time.monotonic()

    def catch_up(self) -> None:
        """See `Keeper.catch_up`."""
        restore_trace(self._trace, self._state["trace"])
        self._meter.units = self._state["units"]
        self.seconds, self._begin = self._state["seconds"], time.monotonic()

    def forget(self) -> None:
        """Remove the file: the batch is stored."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _read(self) -> list[Entry]:
        try:
            entries, self._state = unpack(self.path.read_bytes())
            if self._state["about"] != self._about or not entries:
                raise ValueError("It is another attack's.")
        except FileNotFoundError:
            return []
        except Exception:  # whatever lies there
            self.forget()
            return []
        last = entries[-1]
        runs = sum(bool(entry.steps) for entry in entries)
        self.told = f"the interrupted attack goes on, after {last.done} of {last.steps} steps of its run {runs}"
        return entries


def save_attack(
    cell: Cell, run: tuple[str, int], number: int, made_by: Mapping[str, Any], minutes: float
) -> SavedAttack | None:
    """Where the attack on a batch saves itself; None where it cannot go on from a step.

    Args:
        cell: the cell.
        run: the database, and the run's number in it.
        number: of the batch.
        made_by: code, packages, weights and device of this process: those of others go on from their own files.
        minutes: between two savings.
    """
    if not can_continue(cell.attack):
        return None
    where = run[0] if "://" in run[0] else str(Path(run[0]).absolute())
    place = hashlib.sha256(f"{where} {run[1]}".encode()).hexdigest()[:8]
    about = {"cell": cell.row(), "where": where, "run": run[1], "batch": number, "made_by": dict(made_by)}
    return SavedAttack(f"{cell.key}-{place}-{number}", about, minutes)


def pack(entries: Sequence[Entry], state: Mapping[str, Any]) -> bytes:
    """Entries and what belongs to them as bytes: safetensors, JSON in its header, behind a sha256 of both."""
    from safetensors.torch import save

    tensors, told = {}, []
    for number, entry in enumerate(entries):
        orders, plain = {}, {}
        for name, value in entry.values.items():
            if isinstance(value, Tensor):
                orders[name] = _order(value)
                tensors[f"{number}.{name}"] = value.detach().cpu().permute(orders[name]).contiguous().clone()
            else:
                plain[name] = value
        told.append({"what": entry.what, "done": entry.done, "steps": entry.steps, "orders": orders, "plain": plain})
    content = save(tensors, {"entries": json.dumps(told), "state": json.dumps(state)})
    return hashlib.sha256(content).digest() + content


def unpack(content: bytes) -> tuple[list[Entry], dict[str, Any]]:
    """The inverse of `pack`; a tensor has the memory format that it had, as sums in another order round otherwise.

    Raises:
        ValueError: the bytes are not those that were packed.
    """
    from safetensors.torch import load

    digest, rest = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(rest).digest() != digest:
        raise ValueError("Expected a saved attack, found something else.")
    header = json.loads(rest[8 : 8 + int.from_bytes(rest[:8], "little")])["__metadata__"]
    tensors, entries = load(rest), []
    for number, told in enumerate(json.loads(header["entries"])):
        values = dict(told["plain"])
        for name, order in told["orders"].items():
            values[name] = tensors[f"{number}.{name}"].permute([order.index(axis) for axis in range(len(order))])
        entries.append(Entry(told["what"], told["done"], told["steps"], values))
    return entries, json.loads(header["state"])


def _order(value: Tensor) -> list[int]:
    """The axes, as they lie in memory."""
    strides = value.stride()
    return sorted(range(value.ndim), key=lambda axis: (-strides[axis], axis))


def _remove_old(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > FORGOTTEN:
                path.unlink()
