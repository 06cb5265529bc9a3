"""AAOpt: Adam steps along a denoiser's error, corrected by a network that knows adversarial perturbations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Networks, Purifier, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.diffusion.guidance import ADAM_FLOOR, adam, input_gradient
from defenses.diffusion.scan import State
from defenses.models.score_models import ScoreModel
from defenses.noise import NoiseSource
from defenses.traits import per_instance

Levels = Literal["random", "sequential"]
NO_NETWORK = "none"


@register
@dataclass(frozen=True, kw_only=True)
class AAOpt(Purifier):
    """AAOpt (Wesego & Rooshenas, "Adversary Aware Optimization for Robust Defense", NeurIPS 2025).

    Adam steps on the image down the sum of two errors: of the noise that the denoiser finds in image plus noise, and of
    the noise that a second network, trained on perturbations, finds in input minus image plus noise. The error itself
    is the direction, without a derivative of a network, so that gradient="exact" is first order. In the released code
    the direction is a constant to whoever differentiates, which leaves the identity where nothing is clipped: that is
    "straight_through" here. The surrogate is the authors': one step under that gradient. Defaults are the setting
    against PGD and AutoAttack; against BPDA they take sigma 0.5, 5 steps, weight 0.5 and sequential levels.

    Attributes:
        steps: Adam steps, >= 1.
        step_size: Adam's, [-1, 1] units, > 0.
        sigma: noise level, [-1, 1] units, > 0; see `levels`.
        spread: half the width of the range of random levels, in [0, sigma).
        levels: level of a step: "random" is uniform in sigma +- spread, "sequential" falls from sigma in equal steps
            towards 0.
        perturbation: name of the score network of perturbations, for images of the same shape; "none" leaves its term
            out, which is another defense, with less knowledge: only that of the digits ships, and none is public.
        weight: of the perturbation network's term, >= 0.
        shared_level: whether, as released, every step has one random level for the whole batch (every draw is then a
            batch of its own, so the defense counts as batch-coupled); else one an image.
        reference_batch_size: images over which the source averages, >= 1; its gradient shrinks with the batch, which
            only the 1e-8 beside Adam's root sees: at the released 160, pixels of small error move less. Here the result
            does not depend on the batch.
        stop_gradient: whether the surrogate's direction is a constant, the released default. Otherwise, as
            with the released no_stop_grad, it is the gradient of mean(direction x image), whose value differs, too.
    """

    title: ClassVar[str] = "AAOpt"
    words: ClassVar[Mapping[str, str]] = {NO_NETWORK: "no perturbation network"}
    always_shown: ClassVar[tuple[str, ...]] = ("perturbation",)
    source: ClassVar[str] = "Wesego & Rooshenas, NeurIPS 2025; released code (github.com/rooshenasgroup/aaopt)"
    stochastic: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = per_instance(False, lambda self: self.shared_level and self.levels == "random")
    needs_score: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The released code cannot differentiate the defense: its attacks see the identity at an image of one step. By "
        "the authors' logs the AutoAttack numbers are of a transfer from there, with 202 and 130 of 512 images handed "
        "back clean."
    )

    steps: int = 20
    step_size: float = 0.1
    sigma: float = 0.25
    spread: float = 0.1
    levels: Levels = "random"
    perturbation: str = NO_NETWORK
    weight: float = 0.25
    shared_level: bool = False
    reference_batch_size: int = 160
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels not in get_args(Levels):
            raise ValueError(f"Expected levels among {', '.join(get_args(Levels))}, got {self.levels!r}.")
        if not (self.steps >= 1 and self.step_size > 0 and 0 <= self.spread < self.sigma):
            raise ValueError(
                "Expected steps >= 1, step_size > 0 and 0 <= spread < sigma, got "
                f"{self.steps}, {self.step_size}, {self.spread} and {self.sigma}."
            )
        if not (self.weight >= 0 and self.reference_batch_size >= 1):
            raise ValueError(
                "Expected weight >= 0 and reference_batch_size >= 1, got "
                f"{self.weight} and {self.reference_batch_size}."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image (as many of the perturbation network)."""
        return self.runs * self.steps

    def networks(self) -> Networks:
        """The perturbation network, where one is named."""
        return Networks(scores=() if self.perturbation == NO_NETWORK else (self.perturbation,))

    def surrogate(self) -> Purifier:
        """One step, seen as the authors' attack sees it; a single run."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ReleasedStep(**{**values, "steps": 1, "runs": 1})

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width).

        Of every kind of gradient but "exact" its own derivative is the identity where nothing is clipped.
        """
        direction, exact = self.direction(score), gradient == "exact"

        def update(x: Tensor, given: Tensor, noise: NoiseSource, k: int) -> Tensor:
            with torch.set_grad_enabled(exact and torch.is_grad_enabled()):
                return direction(x, given, noise, k)

        return self.descent(update)

    def descent(self, update: Callable[[Tensor, Tensor, NoiseSource, int], Tensor]) -> Purify:
        """Adam's steps along a direction (image, input, noise, step from 0) -> shape of the image."""
        floor = ADAM_FLOOR * self.reference_batch_size

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                x, m, v, given = state
                g = update(x, given, noise, k) / x[0].numel()
                return *adam(x, m, v, g, k + 1, lr=self.step_size, floor=floor), given

            x = to_model_space(images)
            zeros = torch.zeros_like(x)
            x, *_ = scan(step, (x, zeros, zeros, x), self.steps, checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify

    def direction(self, score: ScoreModel) -> Callable[[Tensor, Tensor, NoiseSource, int], Tensor]:
        """What a step descends: the denoiser's error in its noise, plus weight times the perturbation network's."""
        errors = self._perturbation_error(score)

        def of(x: Tensor, given: Tensor, noise: NoiseSource, k: int) -> Tensor:
            level = self.level(x, noise, k)
            scale = level.to(x.dtype).view(-1, 1, 1, 1)
            n = noise.normal(x, step=k + 1)
            y = x + scale * n
            u = (y - denoise(score, y, level)) / scale - n
            if errors is not None:
                u = u + self.weight * errors(given - x, level, noise.normal(x, step=k + 1, stream=1))
            return u

        return of

    def level(self, x: Tensor, noise: NoiseSource, k: int) -> Tensor:
        """Noise level (batch,) of step k = 0, 1, ..., float64."""
        if self.levels == "sequential":
            return torch.full((len(x),), self.sigma * (1 - k / self.steps), dtype=torch.float64, device=x.device)
        if self.shared_level:
            uniform = noise.shared_uniform((1,), step=k + 1, stream=2, device=x.device, dtype=x.dtype).expand(len(x))
        else:
            uniform = noise.uniform(x[:, 0, 0, 0], step=k + 1, stream=2)
        return self.sigma + self.spread * (2 * uniform.double() - 1)

    def _perturbation_error(self, score: ScoreModel) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """(perturbation, noise level, normals) -> error of the predicted noise; None without such a network."""
        if self.perturbation == NO_NETWORK:
            return None
        from defenses.models.scores import load_score

        network = load_score(self.perturbation)
        if not isinstance(network, ScoreModel):
            raise ValueError(
                f"Expected a perturbation network that predicts noise, found {type(network).__name__}, the score of "
                "images. Name another one."
            )
        like = next(score.parameters(), None) if isinstance(score, nn.Module) else None
        if like is not None and isinstance(network, nn.Module):
            network = network.to(like)
        signals = torch.tensor(
            [network.schedule.alpha_bar_at(i) for i in range(network.schedule.levels)],
            dtype=torch.float64,
            device=None if like is None else like.device,
        )

        def error(perturbation: Tensor, level: Tensor, n: Tensor) -> Tensor:
            index = level_index(level)
            a = signals.to(n)[index].view(-1, 1, 1, 1)
            return network.epsilon_at(a.sqrt() * perturbation + (1 - a).sqrt() * n, index) - n

        return error


@dataclass(frozen=True, kw_only=True)
class ReleasedStep(AAOpt):
    """AAOpt as its authors' attacks differentiate it, for one step: the direction is a constant, or mean(u x) descends.

    Not a defense of its own; see `AAOpt.surrogate`.
    """

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """See `AAOpt.build`; its derivative is the released one whatever kind of gradient is asked for."""
        if self.stop_gradient:
            return super().build(score=score, gradient="straight_through")
        direction = self.direction(score)

        def update(x: Tensor, given: Tensor, noise: NoiseSource, k: int) -> Tensor:
            anchor = given.detach()
            return input_gradient(lambda state: direction(state, anchor, noise, k) * state, x, differentiated=True)

        return self.descent(update)


def level_index(level: Tensor) -> Tensor:
    """Level index trunc(1000 sigma) in 0..999 of noise levels (batch,), rounding errors of 1e-9 aside."""
    return (1000 * level + 1e-6).long().clamp(0, 999)
