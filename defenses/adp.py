"""ADP: deterministic steps up an unconditional score from a noised input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from defenses.base import Combine, Gradient, Purifier, Purify, register
from defenses.diffusion import scan
from defenses.diffusion.denoise import data_score
from defenses.diffusion.purifier import check_time
from defenses.diffusion.scan import State
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource
from defenses.traits import per_instance

PROBE = 1e-3  # length, in scores, of the trial step that measures how fast the score turns
SHORTEST, LONGEST = 1e-5, 1e-1  # bounds of a step


@register
@dataclass(frozen=True, kw_only=True)
class ADP(Purifier):
    """Adaptive denoising purification (Yoon, Hwang & Lee, ICML 2021, arXiv:2106.06041).

    Noise, then steps up the score of the data, each as long as a trial step finds safe, until a step gets short; the
    answer averages 10 runs. As released, and kept: every step applies the map 256/255 x - 1/510 to a state that only at
    first was in the scale which that map undoes. Stopped images cost their network evaluations all the same, so that
    the cost depends on no image. See docs/methods.md.

    Attributes:
        runs: purifications behind one answer, >= 1; the authors average 10.
        combine: how the runs' answers are joined; the released code knows the same three ways.
        sigma: standard deviation of the noise, image units, >= 0; the released default.yml has 0.1.
        injection: the noise: "gaussian", or "binary" signs of the same mean size.
        steps: steps up the score at most, >= 1.
        step_scale: the authors' lambda, the step length at curvature one, > 0.
        stop_below: an image stops at its first step shorter than this, >= 0.
        stop: "image" treats every image as a batch of its own; "batch" is as released: the loop goes on until all
            images have stopped, and every turn moves the stopped ones too, by the map above (batch-coupled).
        t: time in (0, 1] at which a VP network stands in for the score; unused with a `DataScore`, such as the
            source's NCSN.
    """

    title: ClassVar[str] = "ADP"
    source: ClassVar[str] = "Yoon, Hwang & Lee, ICML 2021, arXiv:2106.06041; released code"
    stochastic: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = per_instance(False, lambda self: self.stop == "batch")
    needs_score: ClassVar[bool] = True
    takes_data_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None

    runs: int = 10
    combine: Combine = "logits"
    sigma: float = 0.25
    injection: Literal["gaussian", "binary"] = "gaussian"
    steps: int = 10
    step_scale: float = 0.05
    stop_below: float = 1e-3
    stop: Literal["image", "batch"] = "image"
    t: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop not in ("image", "batch") or self.injection not in ("gaussian", "binary"):
            raise ValueError(
                "Expected stop among image, batch and injection among gaussian, binary, got "
                f"{self.stop!r} and {self.injection!r}."
            )
        if not (
            self.sigma >= 0 and self.steps >= 1 and self.step_scale > 0 and self.stop_below >= 0 and 0 < self.t <= 1
        ):
            raise ValueError(
                "Expected sigma >= 0, steps >= 1, step_scale > 0, stop_below >= 0 and t in (0, 1], got "
                f"{self.sigma}, {self.steps}, {self.step_scale}, {self.stop_below} and {self.t}."
            )
        check_time(self.t)

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return 2 * self.steps * self.runs

    def build(
        self, *, classifier: nn.Module | None = None, score: ScoreModel | DataScore, gradient: Gradient = "exact"
    ) -> Purify:
        """The pure function (images, noise) -> images in [0, 1]; images (batch, channels, height, width)."""
        model = data_score(score, self.t, unit=True)

        def step(state: State, k: int) -> State:
            x, going = state
            direction, length = self.stride(model, x)
            going = going & (length > self.stop_below)
            moved = from_grid(x + length * going * direction).clamp(0, 1)
            return torch.where(going.any() if self.stop == "batch" else going, moved, x), going

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x = self.noised(images, noise)
            going = torch.ones_like(x[:, :1, :1, :1], dtype=torch.bool)
            x, _ = scan(step, (x, going), self.steps, checkpoint_every=self.checkpoint_every)
            return x

        return purify

    def noised(self, images: Tensor, noise: NoiseSource) -> Tensor:
        """The start: images plus noise, clipped to [0, 1], in the grid scale."""
        if self.injection == "binary":
            sign = torch.where(noise.uniform(images, step=0) < 0.5, -1.0, 1.0).to(images)
            return to_grid((images + self.sigma * math.sqrt(2 / math.pi) * sign).clamp(0, 1))
        return to_grid((images + self.sigma * noise.normal(images, step=0)).clamp(0, 1))

    def stride(self, model: DataScore, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score at x, and each image's step length (batch, 1, 1, 1): step_scale over the curvature along it."""
        direction = model.score(x)
        turn = direction - model.score(x + PROBE * direction)
        power, loss = ((direction * other).sum((1, 2, 3), keepdim=True) for other in (direction, turn))
        curved = loss != 0
        length = self.step_scale * PROBE * power / torch.where(curved, loss, 1.0)
        return direction, torch.where(curved, length, LONGEST).clamp(SHORTEST, LONGEST)


def to_grid(images: Tensor) -> Tensor:
    """[0, 1] -> [1/512, 511/512], the middles of 256 grey levels."""
    return 255 / 256 * images + 1 / 512


def from_grid(x: Tensor) -> Tensor:
    """The inverse of `to_grid`."""
    return (x - 1 / 512) * 256 / 255
