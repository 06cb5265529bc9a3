"""Consistency purification: noise, then one jump along the probability flow to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.diffusion import clip, scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.diffusion.scan import State
from defenses.models.flow_maps import SIGMA_DATA, SIGMA_MIN, ConsistencyMap
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class Consistency(Purifier):
    """Purification by a consistency model (Song, Dhariwal, Chen & Sutskever, ICML 2023, Algorithm 1).

    Noise of scale sigma, then the consistency function, which is trained to give the end of the probability flow in one
    evaluation; further evaluations add less noise and jump again. With a `ConsistencyMap` as score network it is the
    method. With a network that predicts noise, f is put together from its denoiser in the same preconditioning, which
    makes it one-shot denoising (`edm_one_shot`) to half a percent.

    Attributes:
        sigma: noise level, [-1, 1] units, > 0.002; results are published for several, 0.4 and 0.7 among them.
        evaluations: of the consistency function, >= 1; the method is one.
    """

    title: ClassVar[str] = "consistency"
    source: ClassVar[str] = (
        "ConsistencyPure, 2024, released code (github.com/LYMDLUT/Consistency_Pure); "
        "Song, Dhariwal, Chen & Sutskever, ICML 2023, arXiv:2303.01469, Eq. 5, Algorithm 1"
    )
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "Published with consistency-trained weights; with a network that predicts noise this is one-shot denoising to "
        "half a percent, another method. PGD of 20 steps and 10 draws judged by one draw: upper bounds."
    )

    sigma: float = 0.5
    evaluations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sigma > SIGMA_MIN and self.evaluations >= 1):
            raise ValueError(
                f"Expected sigma > {SIGMA_MIN} and evaluations >= 1, got {self.sigma} and {self.evaluations}."
            )

    @property
    def network_evaluations(self) -> int:
        """Evaluations of the network behind one answer for one image."""
        return self.runs * self.evaluations

    def levels(self) -> list[float]:
        """Noise level of each evaluation: a third of the way to the end is left after each."""
        levels = [self.sigma]
        while len(levels) < self.evaluations:
            levels.append((2 * levels[-1] + SIGMA_MIN) / 3)
        return levels

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        levels = self.levels()

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                (x,) = state
                again = 1e-6 if k else 0.0  # under the root from the second evaluation on, as released
                scale = (levels[k] ** 2 - SIGMA_MIN**2 + again) ** 0.5
                y = x + scale * noise.normal(x, step=k)
                return (clip(consistency(score, y, levels[k]), -1, 1),)

            x = to_model_space(images)
            (x,) = scan(step, (x,), len(levels), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify


def consistency(score: ScoreModel, y: Tensor, sigma: float) -> Tensor:
    """The consistency function f(y, sigma): the network's own, or of its denoiser D in EDM's preconditioning.

    f = q D + (s^2 / ((sigma - m)^2 + s^2) - q s^2 / (sigma^2 + s^2)) y, with q = (sigma - m) / sigma, s = 0.5 and
    m = 0.002: EDM's D and f differ in the weights of y and of the raw network only.

    Args:
        score: a `ConsistencyMap`, or a network that predicts noise.
        y: (batch, channels, height, width), images in the [-1, 1] space plus noise.
        sigma: standard deviation of that noise, > 0.002.

    Returns:
        Shape of y, not clipped.
    """
    if isinstance(score, ConsistencyMap):
        return score.consistency(y, times(y, sigma))
    q, data = (sigma - SIGMA_MIN) / sigma, SIGMA_DATA**2
    skip = data / ((sigma - SIGMA_MIN) ** 2 + data) - q * data / (sigma**2 + data)
    return q * denoise(score, y, sigma) + skip * y
