"""Score networks behind one interface: they predict the noise in a state of the VP diffusion."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import VPSchedule

Labels = Literal["continuous", "index"]
AtLevel = Literal["index", "time"]


@runtime_checkable
class ScoreModel(Protocol):
    """A noise-prediction network eps(x_t, t) of the VP diffusion (Song et al., ICLR 2021; Ho et al., NeurIPS 2020).

    Attributes:
        schedule: the diffusion that it was trained on.
        image_shape: (channels, height, width) of its images.
    """

    schedule: VPSchedule
    image_shape: tuple[int, int, int]

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted noise, shape of x_t.

        Args:
            x_t: (batch, channels, height, width), a state of the diffusion in the [-1, 1] space.
            t: (batch,) times in [0, 1].
        """
        ...

    def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
        """Predicted noise at discrete levels, `index` (batch,) integers in 0..999."""
        ...

    def epsilon_and_log_variance(self, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predicted noise and, where the network learned it, the log variance of the ancestral step; one pass."""
        ...


@runtime_checkable
class DataScore(Protocol):
    """An unconditional score of the data, gradient of log density, on [0, 1] images (ADP's NCSN; an energy model)."""

    def score(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> gradient of the log density, same shape."""
        ...


class NetworkScore(nn.Module):
    """A `ScoreModel` around any network(x, label) -> noise, or noise and a learned variance range.

    A network with twice the image's channels has a learned variance (Nichol & Dhariwal, ICML 2021, Eq. 15). Time labels
    and their sources: docs/methods.md, section Networks.

    Attributes:
        network: (x_t, label (batch,)) -> (batch, channels or twice as many, height, width).
        image_shape: (channels, height, width).
        labels: what the network is shown at time t: "continuous" 999 t unrounded (score_sde), "index" trunc(1000 t)
            clamped to 0..999 (guided-diffusion, DDPM).
        at_level: what a continuous network is shown at the discrete level k: "index" k itself (Lee & Kim, ICCV 2023),
            "time" 999 t of the time t of equal alpha_bar.
        schedule: the diffusion; the linear one of 1000 levels where none is given.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        image_shape: tuple[int, int, int],
        *,
        labels: Labels = "continuous",
        at_level: AtLevel = "index",
        schedule: VPSchedule | None = None,
    ) -> None:
        if (labels, at_level) == ("index", "time"):
            raise ValueError("Expected at_level='index' for a network with integer labels, got 'time'. Leave it out.")
        super().__init__()
        self.network = network
        self.image_shape = image_shape
        self.labels, self.at_level = labels, at_level
        self.schedule = schedule or VPSchedule()
        self._tables: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        """See `ScoreModel.epsilon`."""
        last = self.schedule.levels - 1
        if self.labels == "continuous":
            label = last * t
        else:
            label = torch.trunc(t * self.schedule.levels).clamp(0, last)
        return self.network(x_t, label)[:, : self.image_shape[0]]

    def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
        """See `ScoreModel.epsilon_at`."""
        return self.network(x_t, self._label_at(index, x_t))[:, : self.image_shape[0]]

    def epsilon_and_log_variance(self, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predicted noise and the learned log variance, which lies between those of the posterior and of beta.

        Returns:
            The noise, and the log variance of the same shape; None for a network without one.
        """
        out = self.network(x_t, self._label_at(index, x_t))
        channels = self.image_shape[0]
        if out.shape[1] == channels:
            return out, None
        low, high = self._placed("_log_range", x_t)[:, index].view(2, -1, 1, 1, 1)
        share = (out[:, channels:] + 1) / 2
        return out[:, :channels], share * high + (1 - share) * low

    def _label_at(self, index: Tensor, x_t: Tensor) -> Tensor:
        return self._placed("_time_labels", x_t)[index] if self.at_level == "time" else index.to(x_t.dtype)

    def _placed(self, table: str, like: Tensor) -> Tensor:
        """A table of all levels with the device and dtype of `like`, uploaded once."""
        key = (table, like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = getattr(self, table).to(like)
        return self._tables[key]

    @cached_property
    def _time_labels(self) -> Tensor:
        schedule = self.schedule
        alpha_bars = torch.tensor([schedule.alpha_bar_at(i) for i in range(schedule.levels)], dtype=torch.float64)
        return (schedule.levels - 1) * schedule.time_of(alpha_bars)

    @cached_property
    def _log_range(self) -> Tensor:
        levels = range(self.schedule.levels)
        low = [self.schedule.clipped_log_variance_at(i) for i in levels]
        high = [self.schedule.log_variance_at(i, "large") if i else None for i in levels]
        high[0] = float(torch.tensor(self.schedule.beta_at(0), dtype=torch.float64).log())
        return torch.tensor([low, high], dtype=torch.float64)


def times(x: Tensor, t: float) -> Tensor:
    """The scalar time t as the (batch,) tensor that a `ScoreModel` takes, in the dtype of x."""
    return torch.full((len(x),), t, dtype=x.dtype, device=x.device)


def indices(x: Tensor, index: int) -> Tensor:
    """The level `index` as the (batch,) integer tensor that a `ScoreModel` takes."""
    return torch.full((len(x),), index, dtype=torch.int64, device=x.device)
