"""Attack on a diffusion purifier's intermediate states, in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks.base import Attack, NoSuchAttack, Trace, check_positive, register
from bench.attacks.cascade import Relabelled
from bench.attacks.losses import Loss
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended, Purify
from defenses.diffusion import to_model_space
from defenses.noise import NoiseSource

Weighting = Literal["uniform", "alpha_bar"]


@register
@dataclass(frozen=True, kw_only=True)
class DiffAttack(Attack):
    """DiffAttack's deviated-reconstruction loss (Kang, Song & Li, NeurIPS 2023, arXiv:2311.16124) in PGD+EOT.

    Maximises the classification loss plus deviation * sum_t w_t |x'_t - x_t|^2 / D: x'_t is the state of D values that
    the score network is shown at time t, x_t the input noised to that time with the purifier's own first forward
    noise. The gradient is that of the whole sum, exact, at the memory of the purifier's own backward pass: every
    network call adds its term's gradient as the steps are replayed. The iterate with the largest mean margin is
    returned; the logged loss is the classification loss.

    The authors published no code; this follows the formulas of the paper (docs/methods.md). In every round of a
    purifier of several rounds the reference is the forward path of the first. Needs a defense with a score network,
    images of the network's own size, and the exact gradient.

    Attributes:
        steps: at least 1.
        step_size: length of a step, image units, > 0.
        eot: draws a step, at least 1.
        loss: "ce", "margin" or "dlr".
        deviation: weight of the deviation, >= 0.
        weighting: w_t = 1 ("uniform") or alpha_bar(t) ("alpha_bar").
    """

    title: ClassVar[str] = "DiffAttack"
    source: ClassVar[str] = "Kang et al., NeurIPS 2023, arXiv:2311.16124"
    continues: ClassVar[bool] = True

    steps: int = 100
    step_size: float = 0.007
    eot: int = 20
    loss: Loss = "ce"
    deviation: float = 1.0
    weighting: Weighting = "uniform"

    def __post_init__(self) -> None:
        self._climber()
        if not self.deviation >= 0:
            raise ValueError(f"Expected deviation >= 0, got {self.deviation}.")
        if self.weighting not in ("uniform", "alpha_bar"):
            raise ValueError(f"Expected weighting uniform or alpha_bar, got {self.weighting!r}.")

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for each image."""
        return self.eot, self.steps * self.eot

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
        """Adversarial images; see `Attack.perturb`. Raises ValueError for a defense without a score network."""
        seen = deviating(model, self.deviation / self.eot, self.weighting)
        own = None if trace is None else Relabelled(trace, self.name)
        return self._climber().perturb(seen, images, labels, image_ids, threat, seed, trace=own)

    def _climber(self) -> PGDEOT:
        check_positive(eot=self.eot)
        return PGDEOT(steps=self.steps, step_size=self.step_size, eot=self.eot, loss=self.loss, select="best")


def deviating(model: Defended, scale: float, weighting: Weighting = "uniform") -> Defended:
    """The same defense, whose gradients gain that of scale * sum_t w_t |x'_t - x_t|^2 / D for every row."""
    with_score = model.with_score
    if with_score is None or model.gradient != "exact":
        raise NoSuchAttack(
            "DiffAttack needs a defense with a score network and gradient='exact', got "
            f"{'no score network' if with_score is None else f'gradient={model.gradient!r}'}. Use pgd_eot or apgd_eot."
        )

    def watched(images: Tensor, noise: NoiseSource) -> Tensor:
        probes: list[_Probe] = []

        def wrap(score: Any) -> _Probe:
            probes.append(_Probe(score, images.detach(), noise, scale, weighting))
            return probes[0]

        purified = with_score(wrap)(images, noise)
        probes[0].close()
        return _AddGradient.apply(purified, images, probes[0].path_gradient)

    def wrap_purify(purify: Purify) -> Purify:
        def purify_watched(images: Tensor, noise: NoiseSource) -> Tensor:
            recorded = torch.is_grad_enabled() and images.requires_grad
            return watched(images, noise) if recorded else purify(images, noise)

        return purify_watched

    return model.with_purify(wrap_purify)


class _Probe:
    """A score network that compares each state it is shown with the forward path.

    The gradient with respect to the state enters the graph at the call, so a replayed step carries it too; the one
    with respect to the path is summed over the calls of the forward pass.
    """

    def __init__(self, score: Any, images: Tensor, noise: NoiseSource, scale: float, weighting: Weighting) -> None:
        self._score, self._scale, self._weighting = score, scale, weighting
        self._clean, self._noise = to_model_space(images), noise.normal(images, step=0)
        self._forward_pass, self._calls = True, 0
        self.path_gradient = torch.zeros_like(images)
        self._alpha_bars: Tensor | None = None  # of all levels: the host need not know which one is shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._score, name)

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        """See `ScoreModel.epsilon`."""
        return self._watch(x_t, self.schedule.alpha_bar(t), lambda x: self._score.epsilon(x, t))

    def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
        """See `ScoreModel.epsilon_at`."""
        return self._watch(x_t, self._levels(index), lambda x: self._score.epsilon_at(x, index))

    def epsilon_and_log_variance(self, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `ScoreModel.epsilon_and_log_variance`."""
        eps, log_variance = self._score.epsilon_and_log_variance(x_t, index)
        return self._watch(x_t, self._levels(index), lambda x: eps), log_variance

    def close(self) -> None:
        """End of the forward pass. Raises ValueError where the purifier showed the network no diffusion state."""
        if not self._calls:
            raise ValueError("DiffAttack saw no state of a diffusion in this defense. Use pgd_eot or apgd_eot.")
        self._forward_pass = False

    def _levels(self, index: Tensor) -> Tensor:
        if self._alpha_bars is None:
            levels = [self.schedule.alpha_bar_at(i) for i in range(self.schedule.levels)]
            self._alpha_bars = torch.tensor(levels, dtype=torch.float64).to(index.device, non_blocking=True)
        return self._alpha_bars[index]

    def _watch(self, x_t: Tensor, alpha_bar: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
        if x_t.shape != self._clean.shape:
            raise ValueError(
                f"DiffAttack compares states with an input of shape {tuple(self._clean.shape)}, the network was "
                f"shown {tuple(x_t.shape)}. Use pgd_eot or apgd_eot where the purifier resizes or stacks images."
            )
        a = alpha_bar.to(x_t).view(-1, 1, 1, 1)
        path = a.sqrt() * self._clean + (1 - a).sqrt() * self._noise
        weight = a if self._weighting == "alpha_bar" else 1.0
        pull = 2 * self._scale * weight * (x_t.detach() - path) / x_t[0].numel()
        if self._forward_pass:
            self._calls += 1
            self.path_gradient -= 2 * a.sqrt() * pull  # 2: images to model space
        return _AddGradient.apply(output(x_t), x_t, pull)


class _AddGradient(torch.autograd.Function):
    """The first argument unchanged; in the backward pass the second one receives `extra` besides.

    Not where a guidance differentiates the network inside the purifier: that gradient is part of the function.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, extra: Tensor) -> Tensor:
        ctx.save_for_backward(extra)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (extra,) = ctx.saved_tensors
        return gradient, None if torch.is_grad_enabled() else extra, None
