"""A pure loop over time with exact gradients in constant memory.

The backward pass recomputes segments of steps from stored states, replaying the very same noise (which is a pure
function of its counters), so the gradient is that of the computation that ran: discretise, then differentiate.
Storing the state of every segment and recomputing inside it is checkpointing in the sense of Griewank & Walther (ACM
TOMS 2000).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from defenses.memory import free_bytes
from defenses.rows import is_frugal

State = tuple[Tensor, ...]
Step = Callable[[State, int], State]
MEMORY_SHARE = 0.4  # of the free memory that the graph of un-checkpointed steps may take


def scan(step: Step, state: State, steps: int, *, checkpoint_every: int | None = None) -> State:
    """state <- step(state, k) for k = 0..steps-1, differentiable with respect to the state.

    Args:
        step: pure function (state, k) -> state. Whatever must receive a gradient travels in the state: a captured
            tensor receives none where steps are recomputed.
        state: tuple of tensors.
        steps: how many, >= 0.
        checkpoint_every: steps a stored segment; 0 keeps the whole graph (no recomputation: fastest, memory grows with
            steps), 1 is the most frugal; None keeps the graph of as many last steps as fit in free memory.

    Returns:
        The state after the last step.
    """
    if checkpoint_every is not None and checkpoint_every < 0:
        raise ValueError(f"Expected checkpoint_every >= 0 or None, got {checkpoint_every}.")
    needs_graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state)
    if not needs_graph or checkpoint_every == 0:
        return _run(step, state, 0, steps)
    if checkpoint_every is not None:
        return _segments(step, state, 0, steps, checkpoint_every)
    if steps == 0:
        return state
    meter = _SavedBytes()
    state = _segment(step, state, 0, 1, meter)
    left = 0 if is_frugal() else _BUDGET.left(state[0].device)
    fitting = int(MEMORY_SHARE * left // max(meter.bytes, 1))
    kept = min(steps - 1, fitting)
    _BUDGET.promise(state[0].device, kept * meter.bytes)
    state = _segments(step, state, 1, steps - kept, max(1, kept))
    return _run(step, state, steps - kept, steps)


def free_memory(device: torch.device) -> int:
    """Free bytes on the device (on a CPU: available memory of the machine, or of its container where that is less)."""
    return free_bytes(device) if device.type == "cuda" else _available_host_memory()


class _Budget:
    """Free memory, asked again when the answer is older than a second or half of it has been promised since.

    A purifier of many short scans would else ask for each of them, and the question costs more than a kernel.
    """

    def __init__(self) -> None:
        self._asked: dict[torch.device, tuple[float, int]] = {}
        self._promised: dict[torch.device, int] = {}

    def left(self, device: torch.device) -> int:
        """Bytes that no scan has been promised."""
        when, free = self._asked.get(device, (-math.inf, 0))
        if time.monotonic() - when > 1 or 2 * self._promised[device] > free:
            free = free_memory(device)
            self._asked[device], self._promised[device] = (time.monotonic(), free), 0
        return free - self._promised[device]

    def promise(self, device: torch.device, size: int) -> None:
        """Bytes that a scan is about to take."""
        self._promised[device] += size


_BUDGET = _Budget()


def _available_host_memory() -> int:
    try:
        with open("/proc/meminfo") as lines:
            info = dict(line.split(":") for line in lines)
        return int(info["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2 * 2**30  # no such file on this system: assume little


def _run(step: Step, state: State, start: int, stop: int) -> State:
    for k in range(start, stop):
        state = step(state, k)
    return state


def _segments(step: Step, state: State, start: int, stop: int, length: int) -> State:
    for first in range(start, stop, length):
        state = _segment(step, state, first, min(first + length, stop))
    return state


def _segment(step: Step, state: State, start: int, stop: int, meter: _SavedBytes | None = None) -> State:
    return _Segment.apply(lambda s: _run(step, s, start, stop), meter, *state)


class _SavedBytes:
    """Counts the bytes that a graph keeps, each storage once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor.detach()  # the tensor itself may be the operation's own output: a cycle that is never collected


class _Segment(torch.autograd.Function):
    """Runs a segment without a graph and rebuilds it in the backward pass."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[State], State], meter: _SavedBytes | None, *state: Tensor) -> State:
        ctx.run = run
        ctx.save_for_backward(*state)
        if meter is None:
            return run(state)
        with torch.enable_grad(), saved_tensors_hooks(meter.pack, lambda tensor: tensor):
            out = run(_leaves(state, ctx.needs_input_grad[2:]))
        return tuple(tensor.detach() for tensor in out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            inputs = _leaves(ctx.saved_tensors, needed)
            outputs = ctx.run(inputs)
        pairs = [(out, grad) for out, grad in zip(outputs, gradients, strict=True) if out.requires_grad]
        wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        found = iter(
            torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
            if pairs
            else [None] * len(wanted)
        )
        return (None, None, *(next(found) if need else None for need in needed))


def _leaves(state: State, needed: tuple[bool, ...]) -> State:
    return tuple(t.detach().requires_grad_(need) for t, need in zip(state, needed, strict=True))
