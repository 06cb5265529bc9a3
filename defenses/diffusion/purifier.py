"""The fields and checks that every diffusion purifier has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from defenses.base import Gradient, Purifier
from defenses.diffusion.schedule import VPSchedule

LITERATURE = VPSchedule()  # the schedule whose 1000 levels `t` and `steps` count


def check_time(t: float) -> None:
    """Raise ValueError for a diffusion time that is outside (0, 1], or nearer to no noise than to the first level."""
    if not 0 < t <= 1:
        raise ValueError(f"Expected t in (0, 1], got {t}.")
    if round(t * LITERATURE.levels) < 1:
        raise ValueError(
            f"Expected t of at least {1 / LITERATURE.levels:g}, one of the {LITERATURE.levels} discrete levels, got "
            f"{t}, which rounds to no noise at all."
        )


@dataclass(frozen=True, kw_only=True)
class DiffusionPurifier(Purifier):
    """Adds noise up to time t, then reverses it in `steps` steps. Abstract.

    Attributes:
        t: diffusion time t*, in (0, 1], at least half of one of the 1000 discrete levels.
        steps: reverse steps, in [1, 10000]; None is one per discrete level (t = 0.1: 100).

    Class attributes:
        checkpoint_every: see `scan`; it moves time and memory, not numbers.
    """

    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")
    checkpoint_every: ClassVar[int | None] = None

    t: float = 0.1
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_time(self.t)
        if self.steps is not None and not 1 <= self.steps <= 10_000:
            raise ValueError(f"Expected steps in [1, 10000] or None, got {self.steps}.")

    @property
    def levels(self) -> int:
        """Discrete levels that t stands for."""
        return LITERATURE.level(self.t)

    @property
    def reverse_steps(self) -> int:
        """Reverse steps of one purification."""
        return self.steps or self.levels

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * self.reverse_steps

    def surrogate(self) -> Self:
        """The same purifier with a fifth of the steps, as Lee & Kim (ICCV 2023) attack DiffPure; a single run."""
        return replace(self, steps=max(1, self.reverse_steps // 5), runs=1)
