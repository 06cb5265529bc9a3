"""Certified L2 robustness of a classifier that votes over Gaussian noise.

Cohen, Rosenfeld & Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019 (arXiv:1902.02918),
Theorem 1 and the procedures PREDICT and CERTIFY of its section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Combine, Purifier
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource

ABSTAIN = -1
Answer = Callable[[Tensor, NoiseSource], Tensor]  # images and their noise -> logits (batch, classes)


@dataclass(frozen=True)
class Certificate:
    """What is certified of each image.

    Attributes:
        label: (batch,) integers, ABSTAIN (-1) where nothing could be certified.
        radius: (batch,) float64, the L2 distance in image units within which the smoothed classifier's answer is
            `label`; 0 where it abstains.
    """

    label: Tensor
    radius: Tensor

    def correct_within(self, labels: Tensor, radius: float) -> Tensor:
        """Which images are certified to be answered right; the mean is the certified accuracy.

        Args:
            labels: (batch,) true labels.
            radius: L2 distance in image units, >= 0; 0 asks for a label only.

        Returns:
            (batch,) bool.
        """
        return (self.label == labels) & (self.radius > radius if radius > 0 else self.label != ABSTAIN)


@dataclass(frozen=True, kw_only=True)
class Smoothing(Purifier):
    """A purifier that adds N(0, sigma^2), so that a vote over its runs has a certified radius. Abstract.

    An attacker's gradient is that of the mean softmax over the runs (Salman et al., "Provably robust deep learning via
    adversarially trained smoothed classifiers", NeurIPS 2019).

    Attributes:
        runs: draws behind one answer, >= 1.
        sigma: standard deviation of the noise in image units (of [0, 1] images), > 0; 0.12, 0.25, 0.5 and 1 are
            customary.
        n0: draws that select the label to certify, >= 1.
        n: draws that estimate its probability, >= 1.
        alpha: probability that a certificate is wrong, in (0, 1).
    """

    stochastic: ClassVar[bool] = True

    runs: int = 100
    combine: Combine = "vote"
    sigma: float = 0.25
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sigma > 0 and self.n0 >= 1 and self.n >= 1 and 0 < self.alpha < 1):
            raise ValueError(
                "Expected sigma > 0, n0 >= 1, n >= 1 and alpha in (0, 1), got "
                f"{self.sigma}, {self.n0}, {self.n} and {self.alpha}."
            )

    def certify(
        self,
        classifier: nn.Module,
        score: ScoreModel | DataScore | None,
        images: Tensor,
        noise: NoiseSource,
        *,
        batch_size: int = 1000,
    ) -> Certificate:
        """Labels and radii certified with the fields n0, n and alpha; see the function `certify`.

        Args:
            classifier: images -> logits.
            score: the score network; None where this purifier needs none.
            images: (batch, channels, height, width) in [0, 1].
            noise: of these images.
            batch_size: draws that pass together; it moves memory, not results.
        """
        single = replace(self, runs=1).defend(classifier, score)
        return certify(
            single, images, noise, sigma=self.sigma, n0=self.n0, n=self.n, alpha=self.alpha, batch_size=batch_size
        )


def certify(
    answer: Answer,
    images: Tensor,
    noise: NoiseSource,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    batch_size: int = 1000,
) -> Certificate:
    """CERTIFY: the label that wins n0 draws, and the radius that n further draws certify, one image after the other.

    With probability at least 1 - alpha an image's certificate is right.

    Args:
        answer: (images, noise) -> logits, a single noisy answer, as of a `Defended` with one run.
        images: (batch, channels, height, width) in [0, 1].
        noise: of these images.
        sigma: standard deviation of the noise in `answer`, image units, > 0.
        n0: draws that select the label, >= 1.
        n: draws that estimate its probability, >= 1.
        alpha: probability that a certificate is wrong, in (0, 1).
        batch_size: draws passed to `answer` at once; it moves memory, not results.
    """
    labels, radii = [], []
    for i in range(len(images)):
        draws = noise[i : i + 1].split(n0 + n)
        label = int(count_votes(answer, images[i : i + 1], draws[:n0], batch_size).argmax())
        votes = count_votes(answer, images[i : i + 1], draws[n0:], batch_size)
        radius = certified_radius(int(votes[label]), n, sigma=sigma, alpha=alpha)
        labels.append(label if radius > 0 else ABSTAIN)
        radii.append(radius)
    return Certificate(
        torch.tensor(labels, dtype=torch.int64, device=images.device),
        torch.tensor(radii, dtype=torch.float64, device=images.device),
    )


def predict(
    answer: Answer, images: Tensor, noise: NoiseSource, *, n: int = 100, alpha: float = 0.001, batch_size: int = 1000
) -> Tensor:
    """PREDICT: the label that wins n draws, where its lead over the runner-up is significant.

    Where it does not abstain it is the smoothed classifier's label with probability at least 1 - alpha.

    Args:
        answer: as in `certify`.
        images: (batch, channels, height, width) in [0, 1].
        noise: of these images.
        n: draws, >= 1.
        alpha: probability of a wrong label, in (0, 1).
        batch_size: as in `certify`.

    Returns:
        (batch,) labels, ABSTAIN (-1) where the lead is not significant.
    """
    from scipy.stats import binomtest

    labels = []
    for i in range(len(images)):
        votes = count_votes(answer, images[i : i + 1], noise[i : i + 1].split(n), batch_size)
        (first, second), (label, _) = (part.tolist() for part in votes.topk(2))
        labels.append(label if binomtest(first, first + second).pvalue <= alpha else ABSTAIN)
    return torch.tensor(labels, dtype=torch.int64, device=images.device)


def count_votes(answer: Answer, image: Tensor, draws: NoiseSource, batch_size: int = 1000) -> Tensor:
    """Votes of the answers to one image.

    Args:
        answer: as in `certify`.
        image: (1, channels, height, width) in [0, 1].
        draws: one row an answer.
        batch_size: as in `certify`.

    Returns:
        (classes,) integers.
    """
    votes = torch.zeros((), dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, len(draws), batch_size):
            part = draws[start : start + batch_size]
            logits = answer(image.expand(len(part), -1, -1, -1), part)
            votes = votes + logits.argmax(1).bincount(minlength=logits.shape[1]).cpu()
    return votes


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """One-sided Clopper-Pearson bound: the probability is above it with confidence 1 - alpha."""
    from scipy.stats import binomtest

    return float(binomtest(successes, trials, alternative="greater").proportion_ci(1 - alpha, method="exact").low)


def certified_radius(successes: int, trials: int, *, sigma: float, alpha: float = 0.001) -> float:
    """The radius that votes certify: sigma Phi^-1(lower bound), 0 where the bound is at most 1/2.

    Theorem 1 of Cohen et al., with all other labels together as the runner-up.

    Args:
        successes: votes for the label.
        trials: votes.
        sigma: standard deviation of the noise, image units, > 0.
        alpha: probability that the bound is wrong, in (0, 1).
    """
    from scipy.stats import norm

    bound = lower_bound(successes, trials, alpha)
    return sigma * float(norm.ppf(bound)) if bound > 0.5 else 0.0
