"""FlowPure: a little noise, then Euler steps along the velocity from noisy or attacked images to clean ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import scan, to_model_space
from defenses.diffusion.denoise import time_of_sigma
from defenses.diffusion.scan import State
from defenses.models.flow_maps import VelocityMap
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource
from defenses.traits import per_instance


@register
@dataclass(frozen=True, kw_only=True)
class FlowPure(Purifier):
    """FlowPure (Collaert et al., "FlowPure: Continuous Normalizing Flows for Adversarial Purification", 2025).

    Flow time runs from corrupted images, t = 0, to clean ones, t = 1. With Gaussian corruption the best velocity
    follows from any noise-prediction network, and the method is the probability-flow ODE on evenly spaced noise
    levels; the authors train a velocity network of their own, which a `file:velocity<size>:<path>` brings. Nothing is
    clipped. The surrogate is the process that the authors' attack differentiates, on half the points.

    Attributes:
        sigma: noise that the flow was trained to undo, image units, >= 0; 0 is the attack-conditional form, which needs
            a velocity network trained on attacked images.
        start: flow time of the input, in [0, 1); noise of (1 - start) sigma is added: 0.15 in the released "Gauss 0.15"
            (1/3 and 0.2 in "Gauss 0.2", 0 without noise).
        points: evenly spaced flow times from start to 1, >= 2; one step fewer. The authors' 10 are nine steps.
    """

    title: ClassVar[str] = "FlowPure"
    source: ClassVar[str] = "Collaert et al., 2025, arXiv:2505.13280; released code"
    stochastic: ClassVar[bool] = per_instance(True, lambda self: self.sigma > 0)
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The released white-box attack differentiates four steps and counts its successes on these four, too: it never "
        "runs the defense of nine steps, whose robustness to an adaptive attack is unpublished."
    )

    sigma: float = 0.3
    start: float = 0.5
    points: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sigma >= 0 and 0 <= self.start < 1 and self.points >= 2):
            raise ValueError(
                "Expected sigma >= 0, start in [0, 1) and points >= 2, got "
                f"{self.sigma}, {self.start} and {self.points}."
            )

    @property
    def network_evaluations(self) -> int:
        """Evaluations of the network behind one answer for one image: one fewer than points a run."""
        return self.runs * (self.points - 1)

    def surrogate(self) -> Self:
        """The process on half the points, as the authors' attack differentiates it (5 of 10); a single run."""
        return replace(self, points=max(2, self.points // 2), runs=1)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        velocity = self.velocity(score)
        grid = [self.start + (1 - self.start) * k / (self.points - 1) for k in range(self.points)]

        def step(state: State, k: int) -> State:
            (x,) = state
            return (x + (grid[k + 1] - grid[k]) * velocity(x, grid[k]),)

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x = images
            if self.sigma:
                x = x + (1 - self.start) * self.sigma * noise.normal(images, step=0)
            (x,) = scan(step, (x,), self.points - 1, checkpoint_every=self.checkpoint_every)
            return x

        return purify

    def velocity(self, score: ScoreModel) -> Callable[[Tensor, float], Tensor]:
        """(images, t) -> velocity: the network's own, or E[clean - corrupted | image] of a noise prediction.

        Raises:
            ValueError: the attack-conditional form of a network that predicts noise.
        """
        if isinstance(score, VelocityMap):
            return lambda x, t: score.velocity(x, times(x, t))
        if not self.sigma:
            raise ValueError(
                "FlowPure with sigma=0 needs a velocity network trained on attacked images, found a network that "
                'predicts noise. Set sigma > 0, or score="file:velocity<size>:<path>".'
            )

        def of_noise(x: Tensor, t: float) -> Tensor:
            level = 2 * (1 - t) * self.sigma  # of the noise, [-1, 1] units
            time = float(time_of_sigma(score.schedule, torch.tensor(level, dtype=torch.float64)))
            return -self.sigma * score.epsilon(to_model_space(x) / (1 + level**2) ** 0.5, times(x, time))

        return of_noise
