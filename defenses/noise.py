"""Counter-based noise: every draw is a pure function of (seed, image id, draw, step, stream).

`NoiseSource` is what a purifier may ask of its noise, and `Noise` what the harness gives it. `defenses.recorded` makes
a source of recorded numbers.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in
integer tensor operations, so the integers are the same on every device and whatever the batch, its order or its size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_SHARED = _MASK  # the image id of draws that a whole batch shares


def philox4x32(counter: Tensor, key: tuple[int, int], rounds: int = 10) -> Tensor:
    """Random words by Philox4x32 (Salmon et al., SC 2011).

    Args:
        counter: (4, n) int64, 32-bit words.
        key: two 32-bit words.
        rounds: 10 in Philox4x32-10.

    Returns:
        (4, n) int64, 32-bit words.
    """
    multipliers = torch.tensor(_MULTIPLIERS, device=counter.device).unsqueeze(1)
    even, odd = counter[0::2], counter[1::2]
    for r in range(rounds):
        keys = torch.tensor(
            [(key[0] + r * _WEYL[0]) & _MASK, (key[1] + r * _WEYL[1]) & _MASK], device=counter.device
        ).unsqueeze(1)
        product = even * multipliers  # wraps modulo 2**64; the mask below recovers the unsigned halves
        high = (product >> 32).bitwise_and_(_MASK)
        even, odd = high.flip(0).bitwise_xor_(odd).bitwise_xor_(keys), product.bitwise_and_(_MASK).flip(0)
    return torch.stack((even[0], odd[0], even[1], odd[1]))


def _normals(words: Tensor) -> Tensor:
    """Box-Muller: (4, n) 32-bit words -> (4, n) standard normals in float64."""
    radius = ((words[0::2] + 1).double() * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = words[1::2].double() * (2 * math.pi * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin())).flatten(0, 1)


def _uniforms(words: Tensor) -> Tensor:
    """(4, n) 32-bit words -> (4, n) uniforms in [0, 1), 24 bits, exact in float32."""
    return (words >> 8).double() * 2.0**-24


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

    def __post_init__(self) -> None:
        ids = torch.as_tensor(self.image_ids, dtype=torch.int64)
        if ids.ndim != 1:
            raise ValueError(f"Expected image_ids of shape (batch,), got {tuple(ids.shape)}.")
        draws = torch.as_tensor(self.draws, dtype=torch.int64, device=ids.device).expand(ids.shape)
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
        return Noise(self.seed, self._rows[0][rows], self._rows[1][rows])

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
        rows = self._rows.to(like.device)
        values = self._values(rows, like[0].numel(), step, stream, normal)
        return values.reshape(like.shape).to(like.dtype)

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
        rows = torch.tensor([[_SHARED], [int(draws)]], device=device)
        return self._values(rows, math.prod(shape), step, stream, normal).reshape(tuple(shape)).to(dtype)

    def _values(self, rows: Tensor, count: int, step: int, stream: int, normal: bool) -> Tensor:
        """(rows, count) float64 values; the counter words are (block, step and stream, draw, image id)."""
        if not (0 <= step < 2**24 and 0 <= stream < 256):
            raise ValueError(f"Expected step in [0, 2**24) and stream in [0, 256), got {step} and {stream}.")
        blocks = -(-count // 4)
        n = rows.shape[1]
        counter = torch.empty((4, n, blocks), dtype=torch.int64, device=rows.device)
        counter[0] = torch.arange(blocks, device=rows.device)
        counter[1] = step | (stream << 24)
        counter[2] = rows[1].unsqueeze(1)
        counter[3] = rows[0].unsqueeze(1)
        words = philox4x32(counter.flatten(1), (self.seed & _MASK, (self.seed >> 32) & _MASK))
        values = _normals(words) if normal else _uniforms(words)
        return values.reshape(4, n, blocks).permute(1, 2, 0).reshape(n, 4 * blocks)[:, :count]


def role_seed(seed: int, role: str) -> int:
    """A 64-bit seed for one role ("selection", "judge", ...): no two roles share a draw."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:8], "little")
