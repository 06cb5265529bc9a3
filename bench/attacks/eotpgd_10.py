"""The ten-step attack of the contrastive-guidance paper's authors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, register
from bench.threat import Norm, ThreatModel
from defenses.base import Defended


@dataclass
class _At:
    x: Tensor


@register
@dataclass(frozen=True, kw_only=True)
class EOTPGD10(Attack):
    """EOT-PGD as Bai et al. (ICML 2024) run it, for parity: torchattacks' EOTPGD (Zimmermann, 2019), Linf only.

    Each step goes along the sign of the gradient summed over the draws; the last iterate is returned. A short attack:
    `pgd_eot` takes 200 steps.

    Attributes:
        steps: at least 1.
        step_size: image units, > 0; the authors keep 2/255 where epsilon is 4/255.
        eot: draws a step, at least 1.
        random_start: from a uniform point of the ball, or from the image.
    """

    title: ClassVar[str] = "EOTPGD"
    source: ClassVar[str] = "Bai et al., ICML 2024, PMLR 235:2375-2391; Zimmermann, 2019, arXiv:1907.00895"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)
    continues: ClassVar[bool] = True

    steps: int = 10
    step_size: float = 2 / 255
    eot: int = 20
    random_start: bool = True

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, step_size=self.step_size, eot=self.eot)

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
        """Adversarial images; see `Attack.perturb`. Raises ValueError for any norm but Linf."""
        if threat.norm != "Linf":
            raise ValueError(f"EOTPGD steps along the sign, for norm Linf; got {threat.norm}. Use pgd_eot or apgd_eot.")
        oracle = Oracle(model, labels, image_ids, seed, eot=self.eot, loss="ce", trace=trace)
        at = _At(threat.random_start(images, oracle.uniform(images, 0)) if self.random_start else images)
        for step in resumable(range(self.steps), at):
            answer = oracle.gradient(at.x, step * self.eot)
            if trace is not None:
                trace.log(self.name, step, image_ids, answer.loss, answer.correct, draw=step * self.eot)
            assert answer.gradient is not None
            at.x = threat.project(at.x + self.step_size * answer.gradient.sign(), images)
        return at.x
