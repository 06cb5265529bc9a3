"""Noise that hands out draws and nothing else: no seed, image id or draw number tells a defense who asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from defenses.noise import Noise, NoiseSource


def seal(noise: NoiseSource) -> NoiseSource:
    """The same draws behind a `SealedNoise`; a source other than `Noise` is returned as it is."""
    return SealedNoise(noise) if isinstance(noise, Noise) else noise


class SealedNoise:
    """A `NoiseSource` that answers as the `Noise` behind it and shows none of its attributes."""

    __slots__ = ("__noise",)

    def __init__(self, noise: Noise) -> None:
        """Seal.

        Args:
            noise: whose draws are handed out.
        """
        self.__noise = noise

    def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """See `NoiseSource.normal`."""
        return self.__noise.normal(like, step=step, stream=stream)

    def uniform(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """See `NoiseSource.uniform`."""
        return self.__noise.uniform(like, step=step, stream=stream)

    def shared(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: Any) -> Tensor:
        """See `NoiseSource.shared`."""
        return self.__noise.shared(shape, step=step, stream=stream, **kind)

    def shared_uniform(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: Any) -> Tensor:
        """See `NoiseSource.shared_uniform`."""
        return self.__noise.shared_uniform(shape, step=step, stream=stream, **kind)

    def __len__(self) -> int:
        """Rows of the batch."""
        return len(self.__noise)

    def __getitem__(self, rows: Tensor | slice) -> SealedNoise:
        """The noise of some rows of the batch."""
        return SealedNoise(self.__noise[rows])

    def repeat(self, draws: int) -> SealedNoise:
        """See `NoiseSource.repeat`."""
        return SealedNoise(self.__noise.repeat(draws))

    def split(self, runs: int) -> SealedNoise:
        """See `NoiseSource.split`."""
        return SealedNoise(self.__noise.split(runs))

    def unsplit(self, runs: int) -> SealedNoise:
        """See `NoiseSource.unsplit`."""
        return SealedNoise(self.__noise.unsplit(runs))

    def rows_by_draw(self) -> list[Tensor]:
        """See `NoiseSource.rows_by_draw`."""
        return self.__noise.rows_by_draw()

    def derive(self, label: str) -> SealedNoise:
        """See `NoiseSource.derive`."""
        return SealedNoise(self.__noise.derive(label))

    def __repr__(self) -> str:
        return f"SealedNoise({len(self)} rows)"

    def __reduce__(self) -> Any:
        raise TypeError("Expected noise to be drawn from, got a copy or a pickle of it; sealed noise has none.")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"Expected a drawing method of the noise (normal, uniform, shared ...), got {name!r}. A purifier's noise "
            "has no seed, no image ids and no draw numbers: its answer may depend on the image and the draws alone."
        )
