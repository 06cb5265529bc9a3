"""Denoised smoothing with a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.base import Defended, Gradient, Purify, register
from defenses.certify import Smoothing
from defenses.diffusion import VPSchedule, scan, to_image_space, to_model_space
from defenses.diffusion.denoise import denoise
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddpm
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import DataScore, ScoreModel, indices
from defenses.noise import NoiseSource
from defenses.recorded import as_source


@register
@dataclass(frozen=True, kw_only=True)
class DenoisedSmoothing(Smoothing):
    """Diffusion denoised smoothing (Carlini et al., "(Certified!!) Adversarial robustness for free!", ICLR 2023).

    Randomized smoothing of the classifier behind a denoiser: Gaussian noise of scale sigma, then one call of the score
    network, at the time where the diffusion has the same ratio of noise to signal, alpha_bar(t) = 1 / (1 + (2 sigma)^2)
    (2 sigma: [-1, 1] images are twice as wide). Needs no classifier trained on noise. With more steps or votes it is
    DensePure (Xiao et al., ICLR 2023, arXiv:2211.00322): each noisy image is denoised by ancestral sampling, several
    times, and the majority of their labels is its answer. With one step t is continuous, where the authors round it to
    a level; DensePure's CIFAR network has 4000 levels of a cosine schedule, ours is the score network's.

    Attributes:
        clip: whether the predicted clean image is clipped to [0, 1], in every step, as the authors' code does.
        steps: 1 is the one call above; more are reverse steps spread evenly from the discrete level nearest to t to
            the clean image.
        votes: reverse processes behind each noisy image, >= 1 (DensePure's K); more than one only with more than one
            step.
    """

    title: ClassVar[str] = "denoised smoothing"
    source: ClassVar[str] = "Carlini et al., ICLR 2023, arXiv:2206.10550, Algorithm 1"
    needs_score: ClassVar[bool] = True

    clip: bool = True
    steps: int = 1
    votes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.votes < 1 or self.votes > 1 == self.steps:
            raise ValueError(
                f"Expected steps >= 1 and votes >= 1, more votes only with more steps, got {self.steps} and "
                f"{self.votes}. One step from the same noisy image always gives the same answer."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return self.runs * self.votes * self.steps

    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """The smoothed classifier; each of its runs answers with the majority of `votes` labels."""
        defended = super().defend(classifier, score, gradient=gradient)
        defended.votes = self.votes
        return defended

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""

        walk = sub_sequence(self.nearest_level(score.schedule) + 1, self.steps) if self.steps > 1 else []

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            smoothing = as_source(noise, len(images)).unsplit(self.votes)  # the votes of a run share its noisy image
            noisy = images + self.sigma * smoothing.normal(images, step=0)
            if walk:
                return self._sampled(noisy, noise, score, walk)
            clean = to_image_space(denoise(score, to_model_space(noisy), 2 * self.sigma))
            return clean.clamp(0, 1) if self.clip else clean

        return purify

    def nearest_level(self, schedule: VPSchedule) -> int:
        """Index of the discrete level whose ratio of noise to signal is nearest to that of the smoothing noise."""
        wanted = 1 / (1 + (2 * self.sigma) ** 2)
        return min(range(schedule.levels), key=lambda i: abs(schedule.alpha_bar_at(i) - wanted))

    def _sampled(self, noisy: Tensor, noise: NoiseSource, score: ScoreModel, walk: Sequence[tuple[int, int]]) -> Tensor:
        """Ancestral sampling from noisy images; votes on the same noisy image differ in their draw."""
        schedule = score.schedule

        def step(state: State, k: int) -> State:
            (x,) = state
            index, following = walk[k]
            x0 = predict_x0(x, score.epsilon_at(x, indices(x, index)), schedule.alpha_bar_at(index))
            x0 = x0.clamp(-1, 1) if self.clip else x0
            variance = schedule.log_variance_at(index, "small", following)
            z = noise.normal(x, step=k + 1)
            return (
                reverse_ddpm(x, x0, z, schedule=schedule, index=index, next_index=following, log_variance=variance),
            )

        start = to_model_space(noisy) / (1 + (2 * self.sigma) ** 2) ** 0.5
        (x,) = scan(step, (start,), len(walk))
        return to_image_space(x)
