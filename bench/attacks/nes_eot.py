"""NES on a stochastic defense: a gradient from answers alone, wide enough to see past a plateau."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from bench.attacks._ascent import MovingMean, Start, check_start, decay, first_iterate
from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, register
from bench.attacks.losses import Loss
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended
from defenses.noise import Noise, role_seed


@register
@dataclass(frozen=True, kw_only=True)
class NESEOT(Attack):
    """NES (Ilyas et al., ICML 2018, Algorithm 1) with antithetic samples (Salimans et al., 2017).

    The gradient of the loss, smoothed by a Gaussian, is estimated from differences of answers at x + sigma u and
    x - sigma u. Ilyas et al. take sigma = 0.001 on smooth classifiers. Here it is half the radius: an attack on a
    defense whose answer is constant nearly everywhere (votes, rounding, quantised features), or whose gradient is
    masked, must look across the steps. Both answers of a pair are asked on the same draw of the noise, which no other
    pair ever sees. The step decays along a cosine; the last iterate is returned.

    Attributes:
        steps: at least 1.
        samples: pairs of answers a step, at least 1.
        sigma: width of the search, share of epsilon, > 0: of each pixel in Linf, of the vector u's length in L2,
            of the sum of its entries' sizes in L1.
        first_step: length of the first step, share of epsilon, > 0.
        momentum: weight of the older estimates in an exponential mean, in [0, 1).
        loss: "ce", "margin" or "dlr".
        start: "clean", or "transfer": the end of PGD on the bare classifier.
    """

    title: ClassVar[str] = "NES+EOT"
    source: ClassVar[str] = (
        "Ilyas et al., ICML 2018, arXiv:1804.08598, Algorithm 1; Salimans et al., 2017, arXiv:1703.03864, section 2.1"
    )
    gradient_free: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    samples: int = 20
    sigma: float = 0.5
    first_step: float = 0.25
    momentum: float = 0.75
    loss: Loss = "margin"
    start: Start = "clean"

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, samples=self.samples, sigma=self.sigma, first_step=self.first_step)
        check_start(self.start)
        if self.loss not in get_args(Loss):
            raise ValueError(f"Expected loss among {', '.join(get_args(Loss))}, got {self.loss!r}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected momentum in [0, 1), got {self.momentum}.")

    def queries(self) -> tuple[int, int]:
        """Each step asks about its pairs, and once about the iterate."""
        return self.steps * (2 * self.samples + 1), 0

    def looks(self) -> int:
        """One a step, at the iterate: the pairs lie beside it, and may leave the ball."""
        return self.steps

    @torch.no_grad()
    def perturb(
        self,
        model: Defended,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        seed: int,
        *,
        trace: Trace | None = None,
    ) -> Tensor:
        """Adversarial images; see `Attack.perturb`."""
        oracle = Oracle(model, labels, image_ids, seed, loss=self.loss, trace=trace)
        with torch.enable_grad():
            x = first_iterate(self.start, model, images, labels, image_ids, threat, seed)
        at = MovingMean(x, torch.zeros_like(x))
        for step in resumable(range(self.steps), at):
            draw = step * (self.samples + 1)
            if trace is not None:
                here = oracle.evaluate(at.x, draw)
                trace.log(self.name, step, image_ids, here.loss, here.correct, draw=draw)
            slope = self._slope(oracle, at.x, threat, step, draw + 1)
            at.mean = self.momentum * at.mean + (1 - self.momentum) * slope
            length = self.first_step * threat.epsilon * decay(step, self.steps)
            at.x = threat.project(at.x + length * threat.direction(at.mean), images)
        return at.x

    def _slope(self, oracle: Oracle, x: Tensor, threat: ThreatModel, step: int, draw: int) -> Tensor:
        """The estimate up to a factor: differences of the losses along Gaussian directions, summed."""
        sigma = self.sigma * threat.epsilon / threat.across(x)
        noise = Noise(role_seed(oracle.seed, "directions"), oracle.image_ids, step)
        total = torch.zeros_like(x)
        for pair in range(self.samples):
            u = self.direction(noise, x, pair)
            ahead, behind = (
                oracle.evaluate((x + sign * sigma * u).clamp(0, 1), draw + pair).loss.view(-1, *[1] * (x.ndim - 1))
                for sign in (1, -1)
            )
            total += (ahead - behind) * u
        return total

    def direction(self, noise: Noise, like: Tensor, pair: int) -> Tensor:
        """Along which a pair of answers is asked, of the shape of `like`: standard normals."""
        return noise.normal(like, step=pair)
