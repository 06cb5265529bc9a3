"""Recorded noise, as golden tests replay it, made to answer like any other source of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from defenses.noise import NoiseSource


def as_source(noise: Any, rows: int) -> NoiseSource:
    """The noise itself if it is a whole `NoiseSource`, else a `RecordedNoise` around it.

    Args:
        noise: an object with the drawing methods of `NoiseSource`, or those that the purifier uses.
        rows: images in the batch that it was recorded for.
    """
    return noise if isinstance(noise, NoiseSource) else RecordedNoise(noise, rows)


class RecordedNoise:
    """A `NoiseSource` around an object that can draw for one batch, and `repeat` where several runs are asked for.

    Rows that are cut out are drawn with the whole batch. What tells draws apart is not recorded: its rows are one draw,
    and `derive` and `unsplit` give the same numbers again.
    """

    def __init__(self, noise: Any, rows: int, *, runs: int = 1, kept: Tensor | None = None) -> None:
        """Wrap recorded noise.

        Args:
            noise: object with the methods `normal`, `uniform`, `shared` and `shared_uniform`, or those that are used.
            rows: rows of the batch that it draws for.
            runs: runs that these rows hold.
            kept: (batch,) integers, the rows of this source among them; None is all.
        """
        self._noise, self._rows, self._runs, self._kept = noise, rows, runs, kept

    def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """See `NoiseSource.normal`."""
        return self._draw(self._noise.normal, like, step, stream)

    def uniform(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
        """See `NoiseSource.uniform`."""
        return self._draw(self._noise.uniform, like, step, stream)

    def shared(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: Any) -> Tensor:
        """See `NoiseSource.shared`."""
        return self._noise.shared(shape, step=step, stream=stream, **kind)

    def shared_uniform(self, shape: Sequence[int], *, step: int, stream: int = 0, **kind: Any) -> Tensor:
        """See `NoiseSource.shared_uniform`."""
        return self._noise.shared_uniform(shape, step=step, stream=stream, **kind)

    def __len__(self) -> int:
        """Rows of the batch."""
        return self._rows if self._kept is None else len(self._kept)

    def __getitem__(self, rows: Tensor | slice) -> RecordedNoise:
        """The noise of some rows of the batch."""
        kept = torch.arange(self._rows) if self._kept is None else self._kept
        rows = rows.to(kept.device) if isinstance(rows, Tensor) else rows
        return RecordedNoise(self._noise, self._rows, runs=self._runs, kept=kept[rows])

    def repeat(self, draws: int) -> RecordedNoise:
        """Rows for several passes in one batch, by the recorded object's own `repeat`.

        Raises:
            ValueError: the object has no `repeat`, or rows were cut out before.
        """
        if self._kept is not None or not hasattr(self._noise, "repeat"):
            raise self._indistinct(draws)
        return RecordedNoise(self._noise.repeat(draws), draws * self._rows, runs=draws * self._runs)

    def split(self, runs: int) -> RecordedNoise:
        """Rows for several runs behind each answer: `repeat`, as all rows are one draw."""
        return self.repeat(runs)

    def unsplit(self, runs: int) -> RecordedNoise:
        """Itself: recorded noise is taken as it is."""
        return self

    def rows_by_draw(self) -> list[Tensor]:
        """All rows: they are one draw.

        Raises:
            ValueError: they hold several runs.
        """
        if self._runs > 1:
            raise self._indistinct(self._runs)
        return [torch.arange(len(self))]

    def derive(self, label: str) -> RecordedNoise:
        """Itself: recorded noise is taken as it is."""
        return self

    def _draw(self, method: Callable[..., Tensor], like: Tensor, step: int, stream: int) -> Tensor:
        if self._kept is None:
            return method(like, step=step, stream=stream)
        whole = like.new_empty((self._rows, *like.shape[1:]))
        return method(whole, step=step, stream=stream)[self._kept.to(like.device)]

    def _indistinct(self, runs: int) -> ValueError:
        return ValueError(
            f"Expected `Noise`, to tell the {runs} runs of a batch apart; got {type(self._noise).__name__}. Set runs=1."
        )
