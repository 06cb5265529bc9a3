"""Counter-based noise: every draw is a pure function of (seed, image id, draw, step, stream).

`NoiseSource` is what a purifier may ask of its noise, and `Noise` what the harness gives it. `defenses.recorded` makes
a source of recorded numbers.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in
integer tensor operations, so the integers are the same on every device and whatever the batch, its order or its size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_SHARED = _MASK  # the image id of draws that a whole batch shares
_CONSTANTS = 22  # multipliers, and two keys for each of ten rounds
AHEAD = 16  # steps that a GPU draws in one pass, at most
VALUES_AHEAD = 2**23  # values of such a pass, at most: where one step has more, the GPU is busy anyhow
KINDS_AHEAD = 4  # streams and shapes whose next steps are kept


def philox4x32(counter: Tensor, key: tuple[int, int], rounds: int = 10) -> Tensor:
    """Random words by Philox4x32 (Salmon et al., SC 2011).

    Args:
        counter: (4, n) int64, 32-bit words.
        key: two 32-bit words.
        rounds: 10 in Philox4x32-10.

    Returns:
        (4, n) int64, 32-bit words.
    """
    multipliers, keys = _split_constants(_constants(key, rounds).to(counter.device), rounds)
    first, third = (_low_words(counter[word].contiguous()) for word in (1, 3))
    even, odd = _rounds(counter[0::2].contiguous(), first, third, multipliers, keys)
    return torch.stack((even[0], odd[0], even[1], odd[1]))


@lru_cache(maxsize=64)
def _constants(key: tuple[int, int], rounds: int = 10) -> Tensor:
    """Multipliers and the keys of every round, (2 + 2 rounds,) int64 on the host."""
    weyl = [(word + r * step) & _MASK for r in range(rounds) for word, step in zip(key, _WEYL, strict=True)]
    return torch.tensor([*_MULTIPLIERS, *weyl], dtype=torch.int64)


def _split_constants(constants: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Views of `_constants`: multipliers (2,) int64, keys (rounds, 2) int32."""
    return constants[:2], _low_words(constants[2:]).view(rounds, 2)


def _low_words(values: Tensor) -> Tensor:
    """The low 32 bits of int64 values as an int32 view, which costs no kernel (bytes in little-endian order)."""
    return values.view(torch.int32)[..., ::2]


def _high_words(values: Tensor) -> Tensor:
    return values.view(torch.int32)[..., 1::2]


def _rounds(even: Tensor, first: Tensor, third: Tensor, multipliers: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The rounds, four kernels each.

    A 32 x 32 bit product is an int64 whose halves are read in place. The even words lie in the low halves of int64
    values whose high halves stay 0, so they are unsigned factors.

    Args:
        even: words 0 and 2 of the counter, (2, ...) int64, contiguous; overwritten.
        first: word 1 of the counter, int32, broadcast to (...).
        third: word 3.
        multipliers: (2,) int64.
        keys: (rounds, 2) int32.

    Returns:
        Words 0 and 2, and words 1 and 3, each (2, ...) int64.
    """
    column = (2, *[1] * (even.ndim - 1))
    multipliers, words = multipliers.view(column), _low_words(even)
    first_word, third_word = words.unbind()
    products = [torch.empty_like(even) for _ in range(2)]
    halves = [(_high_words(product).unbind(), _low_words(product).unbind()) for product in products]
    for r, key in enumerate(keys.view(-1, *column).unbind()):
        (high, low), product = halves[r % 2], products[r % 2]
        torch.mul(even, multipliers, out=product)
        torch.bitwise_xor(high[1], first, out=first_word)
        torch.bitwise_xor(high[0], third, out=third_word)
        words.bitwise_xor_(key)
        first, third = low[1], low[0]
    odd = products[len(keys) % 2]
    for place, product in enumerate(reversed(products[(len(keys) - 1) % 2].unbind())):
        torch.bitwise_and(product, _MASK, out=odd[place])
    return even, odd


def _normals(even: Tensor, odd: Tensor) -> Tensor:
    """Box-Muller: (2, ...) and (2, ...) 32-bit words -> (..., 4) standard normals in float64."""
    unit = torch.tensor(2.0**-32, dtype=torch.float64)  # of no dimensions: an argument of the kernel, no upload
    radius = torch.mul(even, unit).add_(unit).log_().mul_(-2).sqrt_()
    angle = odd * (2 * math.pi * unit)
    out = torch.empty((*even.shape[1:], 2, 2), dtype=torch.float64, device=even.device)
    torch.mul(radius, angle.cos(), out=out[..., 0, :].movedim(-1, 0))
    torch.mul(radius, angle.sin_(), out=out[..., 1, :].movedim(-1, 0))
    return out.flatten(-2)


def _uniforms(even: Tensor, odd: Tensor) -> Tensor:
    """(2, ...) and (2, ...) 32-bit words -> (..., 4) uniforms in [0, 1), 24 bits, exact in float32."""
    unit = torch.tensor(2.0**-24, dtype=torch.float64)
    out = torch.empty((*even.shape[1:], 2, 2), dtype=torch.float64, device=even.device)
    for place, words in enumerate((even, odd)):
        torch.mul(words.bitwise_right_shift_(8), unit, out=out[..., place].movedim(-1, 0))
    return out.flatten(-2)


@runtime_checkable
class NoiseSource(Protocol):
    """The noise of a batch: one row an image, or one row an image and draw.

    The drawing methods are pure: the same `step` and `stream` give the same numbers again. step is in [0, 2**24), and
    stream in [0, 256): stream 0 is a sampler's, 1 a guidance's, 2 and up a network initialised inside the purifier. In
    round r of n reverse steps the forward noise is step r (n + 1), reverse step k = 1..n is r (n + 1) + k.
    """

    def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """Standard normals with the shape, device and dtype of `like`, (batch, ...)."""
        ...

    def uniform(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """Uniforms in [0, 1) with the shape, device and dtype of `like`, (batch, ...)."""
        ...

    def shared(
        self,
        shape: Sequence[int],
        *,
        step: int,
        stream: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normals of `shape`, one draw for the whole batch, whose rows must share their draw number."""
        ...

    def shared_uniform(
        self,
        shape: Sequence[int],
        *,
        step: int,
        stream: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniforms in [0, 1) of `shape`, one draw for the whole batch, whose rows must share their draw number."""
        ...

    def __len__(self) -> int:
        """Rows of the batch."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> NoiseSource:
        """The noise of some rows of the batch."""
        ...

    def repeat(self, draws: int) -> NoiseSource:
        """Rows for `draws` passes in one batch: draw d for all images, then draw d + 1 for all images, and so on."""
        ...

    def split(self, runs: int) -> NoiseSource:
        """Rows for `runs` purifications behind each answer, run by run; two answers never share a stream."""
        ...

    def unsplit(self, runs: int) -> NoiseSource:
        """For rows that `split(runs)` made: the noise that each had before, common to the runs of one answer."""
        ...

    def rows_by_draw(self) -> list[Tensor]:
        """The row numbers of each draw that the batch holds, in the order of the draws."""
        ...

    def derive(self, label: str) -> NoiseSource:
        """Independent noise of the same rows, the same for the same label."""
        ...


@dataclass(frozen=True)
class Noise:
    """The noise of a batch, a `NoiseSource`: one independent stream per row, replayable at any time.

    Attributes:
        seed: any integer; its low 64 bits are the key.
        image_ids: (batch,) integers in [0, 2**32 - 1).
        draws: (batch,) integers, or one for all rows, in [0, 2**32): which of the independent purifications of its
            image a row is.
    """

    seed: int
    image_ids: Tensor
    draws: Tensor | int = 0
    _rows: Tensor = field(init=False, repr=False, compare=False)
    _words: dict[torch.device, _Words] = field(init=False, repr=False, compare=False, default_factory=dict)
    _ahead: dict[Hashable, tuple[int, Tensor]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        ids = torch.as_tensor(self.image_ids, dtype=torch.int64, device="cpu")
        if ids.ndim != 1:
            raise ValueError(f"Expected image_ids of shape (batch,), got {tuple(ids.shape)}.")
        draws = torch.as_tensor(self.draws, dtype=torch.int64, device="cpu").expand(ids.shape)
        for name, values, limit in (("image_ids", ids, _SHARED), ("draws", draws, _MASK + 1)):
            if len(values) and not (0 <= int(values.min()) and int(values.max()) < limit):
                raise ValueError(f"Expected {name} in [0, {limit}), got {int(values.min())}..{int(values.max())}.")
        object.__setattr__(self, "image_ids", ids)
        object.__setattr__(self, "draws", draws)
        object.__setattr__(self, "_rows", torch.stack((ids, draws)))

    def __len__(self) -> int:
        """Rows of the batch."""
        return self._rows.shape[1]

    def __getitem__(self, rows: Tensor | slice) -> Noise:
        """The noise of some rows of the batch."""
        places = rows.cpu() if isinstance(rows, Tensor) else rows
        return Noise(self.seed, self._rows[0][places], self._rows[1][places])

    def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """Standard normals with the shape, device and dtype of `like`, (batch, ...)."""
        return self._draw(like, step, stream, normal=True)

    def uniform(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """Uniforms in [0, 1) with the shape, device and dtype of `like`, (batch, ...)."""
        return self._draw(like, step, stream, normal=False)

    def shared(
        self,
        shape: Sequence[int],
        *,
        step: int,
        stream: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normals of `shape`, one draw for the whole batch, whose rows must share their draw number."""
        return self._draw_shared(shape, step, stream, device, dtype, normal=True)

    def shared_uniform(
        self,
        shape: Sequence[int],
        *,
        step: int,
        stream: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniforms in [0, 1) of `shape`, one draw for the whole batch, whose rows must share their draw number."""
        return self._draw_shared(shape, step, stream, device, dtype, normal=False)

    def repeat(self, draws: int) -> Noise:
        """Rows for `draws` passes in one batch: draw d for all images, then draw d + 1 for all images, and so on."""
        ids, base = self._rows
        offsets = torch.arange(draws, device=ids.device).repeat_interleave(len(ids))
        return Noise(self.seed, ids.repeat(draws), base.repeat(draws) + offsets)

    def split(self, runs: int) -> Noise:
        """Rows for `runs` purifications behind each answer, run by run: draw d becomes d * runs + r.

        Two answers never share a stream.
        """
        ids, base = self._rows
        offsets = torch.arange(runs, device=ids.device).repeat_interleave(len(ids))
        return Noise(self.seed, ids.repeat(runs), base.repeat(runs) * runs + offsets)

    def unsplit(self, runs: int) -> Noise:
        """For rows that `split(runs)` made: the noise that each had before, common to the runs of one answer."""
        return replace(self, draws=self._rows[1] // runs)

    def rows_by_draw(self) -> list[Tensor]:
        """The row numbers of each draw that the batch holds, in the order of the draws."""
        draws = self._rows[1]
        return [(draws == draw).nonzero().squeeze(1) for draw in draws.unique()]

    def derive(self, label: str) -> Noise:
        """Independent noise of the same rows, the same for the same label."""
        return replace(self, seed=role_seed(self.seed, label))

    def _draw(self, like: Tensor, step: int, stream: int, *, normal: bool) -> Tensor:
        if like.shape[0] != len(self):
            raise ValueError(f"Expected a batch of {len(self)} images, as the noise has rows, got {like.shape[0]}.")
        drawn = self._steps(like.device, like[0].numel(), step, stream, normal, like.dtype, False)
        return drawn.reshape(like.shape)

    def _draw_shared(
        self,
        shape: Sequence[int],
        step: int,
        stream: int,
        device: torch.device | str,
        dtype: torch.dtype,
        *,
        normal: bool,
    ) -> Tensor:
        draws = self._rows[1].unique()
        if len(draws) != 1:
            raise ValueError(
                f"Shared noise needs one draw number for the whole batch, found {len(draws)}. "
                "Purify each draw of a batch-coupled defense as a batch of its own."
            )
        drawn = self._steps(torch.device(device), math.prod(shape), step, stream, normal, dtype, True)
        return drawn.reshape(tuple(shape))

    def _steps(
        self, device: torch.device, count: int, step: int, stream: int, normal: bool, dtype: torch.dtype, shared: bool
    ) -> Tensor:
        """(rows, count) values of one step, a tensor of its own.

        On a GPU one pass draws several steps, of which the later ones are kept: where the step before or after was the
        last one asked for, as a sampler and the replay of its steps do, twice as many as in the pass before.
        """
        if not (0 <= step < 2**24 and 0 <= stream < 256):
            raise ValueError(f"Expected step in [0, 2**24) and stream in [0, 256), got {step} and {stream}.")
        if device.type == "cpu":
            return self._values(device, count, step, 1, stream, normal, shared)[0].to(dtype)
        key = (device, count, stream, normal, dtype, shared)
        start, kept = self._ahead.get(key, (-2, torch.empty(0)))
        if not start <= step < start + len(kept):
            most = max(1, min(AHEAD, VALUES_AHEAD // max(1, count * (1 if shared else len(self))), 2 * len(kept)))
            start, steps = _following(start, len(kept), step, most)
            kept = self._values(device, count, start, steps, stream, normal, shared).to(dtype)
            while len(self._ahead) >= KINDS_AHEAD:
                self._ahead.pop(next(iter(self._ahead)))
            self._ahead[key] = start, kept
        return kept[step - start].clone()

    def _values(
        self, device: torch.device, count: int, start: int, steps: int, stream: int, normal: bool, shared: bool
    ) -> Tensor:
        """(steps, rows, count) float64 values; the counter words are (block, step and stream, draw, image id)."""
        words = self._on(device)
        ids, draws = words.shared if shared else words.rows
        blocks = -(-count // 4)
        even = torch.empty((2, steps, len(draws), blocks), dtype=torch.int64, device=device)
        even[0] = torch.arange(blocks, device=device)
        even[1] = draws
        clock = (start | (stream << 24)) - (2**32 if stream >= 128 else 0)  # as a signed word
        clocks = torch.arange(clock, clock + steps, dtype=torch.int32, device=device).view(-1, 1, 1)
        even, odd = _rounds(even, clocks, ids, words.multipliers, words.keys)
        values = _normals(even, odd) if normal else _uniforms(even, odd)
        return values.flatten(2)[..., :count]

    def _on(self, device: torch.device) -> _Words:
        """What all draws need, put on a device once, by one upload that waits for nothing."""
        if device not in self._words:
            constants = _constants((self.seed & _MASK, (self.seed >> 32) & _MASK))
            shared = torch.tensor([_SHARED, int(self._rows[1, 0]) if len(self) else 0])
            parts = (len(constants), 2, len(self), len(self))
            packed = torch.cat((constants, shared, self._rows.flatten())).to(device, non_blocking=True)
            constants, shared, ids, draws = packed.split(parts)
            self._words[device] = _Words(
                *_split_constants(constants),
                rows=(_low_words(ids).unsqueeze(1), draws.unsqueeze(1)),
                shared=(_low_words(shared[:1]).unsqueeze(1), shared[1:].unsqueeze(1)),
            )
        return self._words[device]


@dataclass(frozen=True)
class _Words:
    """What a generator needs on one device: constants, and columns (ids int32, draws int64) of the rows."""

    multipliers: Tensor
    keys: Tensor
    rows: tuple[Tensor, Tensor]
    shared: tuple[Tensor, Tensor]


def _following(start: int, count: int, step: int, most: int) -> tuple[int, int]:
    """First step and number of steps of the pass that draws `step`, after one that drew `count` from `start`."""
    if step == start + count:
        return step, min(most, 2**24 - step)
    if step == start - 1:
        return max(0, step - most + 1), min(most, step + 1)
    return step, 1


def role_seed(seed: int, role: str) -> int:
    """A 64-bit seed for one role ("selection", "judge", ...): no two roles share a draw."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:8], "little")
