"""How an attack that was interrupted goes on: a journal of its loops, and of what it asked between them.

An attack is a function of images, seed and the defense's answers. Begun again, it is led past what it has done: a
finished loop gets the state that it ended with, a check its answer, and the loop that was interrupted the state of its
last saved step. Only then is the defense asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bench.attacks.base import Attack, Trace

T = TypeVar("T")
PLAIN = (bool, int, float)


class StaleJournal(RuntimeError):
    """A journal that does not tell of this attack: it has to begin anew."""


@dataclass
class Entry:
    """What a loop, or a question between loops, left behind.

    Attributes:
        what: class of the loop's state, or of the answer.
        done: steps that are done.
        steps: steps of the loop; 0 of an answer.
        values: attribute -> tensor, or plain number.
    """

    what: str
    done: int
    steps: int
    values: dict[str, Any]


class Keeper(Protocol):
    """Keeps a journal where an interruption does not reach."""

    def is_due(self) -> bool:
        """Whether the journal is to be kept now."""

    def keep(self, entries: Sequence[Entry]) -> None:
        """Keep all entries, with what else the batch has found so far."""

    def catch_up(self) -> None:
        """The last entry that was kept is reached: put back what else the batch had found by then."""


@runtime_checkable
class Packs(Protocol):
    """A state that says itself what is to be kept of it: its attributes are not tensors and numbers."""

    def pack(self) -> dict[str, Tensor | float]:
        """Name -> what is to be kept."""

    def restore(self, values: dict[str, Any]) -> None:
        """Put back what `pack` gave."""


class Journal:
    """The entries of one attack on one batch, in order."""

    def __init__(self, keeper: Keeper, past: Iterable[Entry] = ()) -> None:
        """Begin where an earlier one ended.

        Args:
            keeper: where the entries go.
            past: entries that were kept; the last one is a loop's.
        """
        self._keeper, self._past = keeper, deque(past)
        self._entries: list[Entry] = []
        self._inside = False

    def walk(self, steps: Sequence[int], states: Sequence[object]) -> Iterator[int]:
        """See `resumable`."""
        if self._inside:  # a loop within a step: the step is done again as a whole
            yield from steps
            return
        self._inside, what = True, type(states[0]).__name__
        done = first = 0
        if (entry := self._pass(what, len(steps))) is not None:
            _restore(states, entry.values)
            done = first = entry.done
            self._catch_up()
        for step in steps[done:]:
            yield step
            done += 1
            if done < len(steps) and self._keeper.is_due():
                self._keeper.keep([*self._entries, Entry(what, done, len(steps), _pack(states))])
        self._entries.append(Entry(what, len(steps), len(steps), _copy(_pack(states), torch.device("cpu"))))
        self._inside = False
        if done > first and self._keeper.is_due():
            self._keeper.keep(self._entries)

    def remember(self, ask: Callable[[], T], make: Callable[..., T], device: torch.device) -> T:
        """See `remembered`."""
        if self._inside:
            return ask()
        entry = self._pass(make.__name__, 0)
        if entry is None:
            answer = ask()
            entry = Entry(make.__name__, 0, 0, _copy(_values(answer), torch.device("cpu")))
        else:
            answer = make(**_copy(entry.values, device))
        self._entries.append(entry)
        return answer

    def _pass(self, what: str, steps: int) -> Entry | None:
        """The next entry of the past, if there is one."""
        if not self._past:
            return None
        entry = self._past.popleft()
        if (entry.what, entry.steps) != (what, steps):
            raise StaleJournal(f"Expected {what} of {steps} steps, found {entry.what} of {entry.steps}.")
        return entry

    def _catch_up(self) -> None:
        if not self._past:
            self._keeper.catch_up()


_JOURNAL: ContextVar[Journal | None] = ContextVar("journal", default=None)


@contextmanager
def journaled(journal: Journal) -> Iterator[None]:
    """While it lasts, an attack writes this journal and goes on from its past."""
    token = _JOURNAL.set(journal)
    try:
        yield
    finally:
        _JOURNAL.reset(token)


def resumable(steps: range, *states: object | None) -> Iterator[int]:
    """The steps of a loop; of an attack that goes on, those that are left.

    Args:
        steps: all of them. The loop must not be left early.
        states: their attributes, or what they pack, are all that a step hands to the next one, and the loop to what
            follows: tensors and numbers. They are set anew where the attack goes on. The first one names the loop; None
            is left out.
    """
    journal = _JOURNAL.get()
    return iter(steps) if journal is None else journal.walk(steps, [state for state in states if state is not None])


def remembered(ask: Callable[[], T], make: Callable[..., T], device: torch.device) -> T:
    """An answer that a compound attack needs between its members, which is asked for once.

    Args:
        ask: gives it.
        make: its dataclass, of tensors.
        device: of these.
    """
    journal = _JOURNAL.get()
    return ask() if journal is None else journal.remember(ask, make, device)


def can_continue(attack: Attack) -> bool:
    """Whether an attack says of itself, and not by a base class, that it goes on from its journal."""
    return "continues" in vars(type(attack)) and attack.continues


def pack_trace(trace: Trace) -> dict[str, Any]:
    """What a trace holds, as JSON holds it."""
    return {
        "looks": list(trace.looks.items()),
        "survived": list(trace.survived.items()),
        "broken_by": list(trace.broken_by.items()),
        "notes": list(trace.notes),
        "sums": [[list(key), sums] for key, sums in trace._sums.items()],
        "draws": [[image, [_listed(draw) for draw in draws]] for image, draws in trace._draws.items()],
    }


def restore_trace(trace: Trace, packed: dict[str, Any]) -> None:
    """Put back what `pack_trace` took; the lists stay the same objects, which parts of an attack share."""
    for name in ("looks", "survived", "broken_by"):
        known = getattr(trace, name)
        known.clear()
        known.update((key, value) for key, value in packed[name])
    trace.notes[:] = packed["notes"]
    trace._sums = {(attack, step): list(sums) for (attack, step), sums in packed["sums"]}
    trace._draws = {image: {_tupled(draw) for draw in draws} for image, draws in packed["draws"]}


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Hashable:
    return tuple(_tupled(part) for part in value) if isinstance(value, list) else value


def _values(state: object) -> dict[str, Any]:
    if isinstance(state, Packs):
        return state.pack()
    return {name: value for name, value in vars(state).items() if isinstance(value, (Tensor, *PLAIN))}


def _copy(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors of their own, which later steps cannot write into."""
    return {
        name: value.detach().to(device, copy=True) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def _pack(states: Sequence[object]) -> dict[str, Any]:
    """The values of all states, under names that tell them apart."""
    return {f"{place}.{name}": value for place, state in enumerate(states) for name, value in _values(state).items()}


def _restore(states: Sequence[object], values: dict[str, Any]) -> None:
    """The inverse of `_pack`, on the device where the states are."""
    device = next(value.device for value in _pack(states).values() if isinstance(value, Tensor))
    for place, state in enumerate(states):
        own = {name.removeprefix(f"{place}."): v for name, v in values.items() if name.startswith(f"{place}.")}
        own = _copy(own, device)
        if isinstance(state, Packs):
            state.restore(own)
        else:
            vars(state).update(own)
