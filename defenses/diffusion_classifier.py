"""The diffusion classifier: the class under which a diffusion model denoises the image best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from defenses.base import Defended, Defense, Gradient, Purifier, Purify, defenses, register
from defenses.defended import fresh_noise
from defenses.diffusion import scan, to_model_space
from defenses.diffusion.denoise import denoising_error
from defenses.diffusion.scan import State
from defenses.models.conditional import ClassConditional
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource

Weights = Literal["released", "lognormal"]
LOG_MEAN, LOG_STD, DATA_STD = -1.2, 1.2, 0.5  # of EDM's training: noise levels and data (Karras et al. 2022, Table 1)


@register
@dataclass(frozen=True, kw_only=True)
class DiffusionClassifier(Defense):
    """The diffusion classifier of RDC (Chen et al., "Robust Classification via a Single Diffusion Model", ICML 2024).

    It takes the place of the classifier. A class's logit is minus the weighted error, over noise levels, of denoising
    image plus noise when the network is told that class: a bound on the log likelihood. Needs a class-conditional score
    network (`ClassConditional`). RDC is this after likelihood maximization, maximization_steps=5.

    Differs from the authors' code: noise is fresh for each image and draw where theirs is the same for all, and shared
    by the classes in attack and evaluation alike, where their attack draws it anew for each class; the network is a VP
    one instead of EDM. "straight_through" is RDC's own attack: identity through the maximization, exact logits.

    Attributes:
        levels: noise levels, evenly spaced from 1e-4 to below sigma_high, >= 1; the source evaluates with 125.
        sigma_high: end of the noise levels, [-1, 1] units, > 1e-4.
        classes: classes that the network tells apart, >= 2.
        weighting: of the levels, EDM's training weight times the density of its training levels: "lognormal", or
            "released", where that density's exponent is multiplied by the variance that it should be divided by.
        maximization_steps: steps of `likelihood_maximization` on the image before it is classified, by the same network
            told no class, >= 0.
    """

    title: ClassVar[str] = "diffusion classifier"
    source: ClassVar[str] = "Chen et al., ICML 2024, arXiv:2305.15241; released code"
    stochastic: ClassVar[bool] = True
    needs_score: ClassVar[bool] = True
    checkpoint_every: ClassVar[int | None] = None
    published_caveat: ClassVar[str] = (
        "The published attack passes likelihood maximization by the identity, whose released form is re-seeded and so "
        "a fixed function of the image; the shipped demo classifies without gradients, so an attack on it has none."
    )

    levels: int = 125
    sigma_high: float = 3.0
    classes: int = 10
    weighting: Weights = "released"
    maximization_steps: int = 0

    def __post_init__(self) -> None:
        if not (self.levels >= 1 and self.classes >= 2 and self.maximization_steps >= 0 and self.sigma_high > 1e-4):
            raise ValueError(
                "Expected levels >= 1, classes >= 2, maximization_steps >= 0 and sigma_high > 1e-4, got "
                f"{self.levels}, {self.classes}, {self.maximization_steps} and {self.sigma_high}."
            )
        if self.weighting not in get_args(Weights):
            raise ValueError(f"Expected weighting among {', '.join(get_args(Weights))}, got {self.weighting!r}.")

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.classes * self.levels + self.maximization_steps

    def weighted_levels(self) -> list[tuple[float, float]]:
        """(noise level in [-1, 1] units, weight) of every term of a logit."""
        step = (self.sigma_high - 1e-4) / self.levels
        power = 2 if self.weighting == "released" else -2
        found = []
        for s in (1e-4 + i * step for i in range(self.levels)):
            density = math.exp(-((math.log(s) - LOG_MEAN) ** 2) / 2 * LOG_STD**power)
            density /= s * LOG_STD * math.sqrt(2 * math.pi)
            found.append((s, (s**2 + DATA_STD**2) / (DATA_STD * s) ** 2 * density * step))
        return found

    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """The diffusion model as a classifier; `classifier` is what a "transfer" attacker differentiates.

        Raises ValueError for a score network that takes no classes, or a different number.
        """
        self.check_gradient(gradient)
        if score is None:
            raise ValueError("DiffusionClassifier needs a score network, got none. Give the cell a `score`.")
        if not isinstance(score, ClassConditional) or score.classes != self.classes:
            raise ValueError(
                f"DiffusionClassifier needs a score network conditional on {self.classes} classes, got "
                f"{getattr(score, 'classes', 'one that takes none')}. Use one such as digits_conditional."
            )
        purify: Purify = _identity
        if self.maximization_steps:
            maximizer = defenses.make("likelihood_maximization", {"steps": self.maximization_steps})
            assert isinstance(maximizer, Purifier)
            purify = maximizer.build(classifier=classifier, score=score, gradient=gradient)

        def rebuild(kind: Gradient) -> Defended:
            return self.defend(classifier, score, gradient=kind)

        return _Generative(self, score, purify, classifier, gradient, rebuild)

    def logits(self, score: ClassConditional, images: Tensor, noise: NoiseSource) -> Tensor:
        """(batch, classes) minus weighted denoising errors of images in [0, 1]. Noise: stream 2, step = level."""
        terms = self.weighted_levels()
        given = score.given(torch.arange(self.classes, device=images.device).repeat(len(images)))

        def step(state: State, k: int) -> State:
            x, logits = state
            (sigma, weight), n = terms[k], noise.normal(x, step=k, stream=2)
            every, same = (v.repeat_interleave(self.classes, 0) for v in (x, n))
            return x, logits - weight * denoising_error(given, every, sigma, same).view_as(logits)

        start = images.new_zeros(len(images), self.classes)
        _, logits = scan(step, (to_model_space(images), start), self.levels, checkpoint_every=self.checkpoint_every)
        return logits


class _Generative(Defended):
    """Answers with the diffusion classifier's logits instead of the classifier's."""

    def __init__(
        self,
        defense: DiffusionClassifier,
        score: ClassConditional,
        purify: Purify,
        classifier: nn.Module,
        gradient: Gradient,
        rebuild: Callable[[Gradient], Defended],
    ) -> None:
        super().__init__(purify, classifier, gradient=gradient, kinds=defense.gradients, rebuild=rebuild)
        self._defense, self._score = defense, score

    def forward(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) in [0, 1]."""
        if noise is None:
            noise = fresh_noise(images)
        if self.gradient == "transfer" and torch.is_grad_enabled() and images.requires_grad:
            return self.classifier(images)
        return self._defense.logits(self._score, self.purify(images, noise), noise)


def _identity(images: Tensor, noise: NoiseSource) -> Tensor:
    return images
