"""An attack on the bare classifier, handed over to the defense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Attack, Trace, register
from bench.attacks.losses import Loss
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """PGD with an automatic step size (APGD; Croce & Hein, ICML 2020) on the bare classifier: an oblivious attacker.

    The image returned is the one that the bare classifier gets most wrong. The defense is never asked, so nothing of it
    is in the trace, and any kind of gradient will do, "none" too.

    Attributes:
        steps: at least 1.
        loss: "ce", "margin" or "dlr", as in `apgd_eot`.
        restarts: at least 1.
    """

    title: ClassVar[str] = "transfer"
    source: ClassVar[str] = "Papernot et al., 2016, arXiv:1605.07277; Croce & Hein, ICML 2020, arXiv:2003.01690"
    gradient_free: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    loss: Loss = "ce"
    restarts: int = 1

    def __post_init__(self) -> None:
        self._on_the_classifier()

    def _on_the_classifier(self) -> APGDEOT:
        return APGDEOT(steps=self.steps, eot=1, loss=self.loss, restarts=self.restarts)

    def queries(self) -> tuple[int, int]:
        """None: the defense is never asked."""
        return 0, 0

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
        bare = Defended(lambda images, noise: images, model.classifier)
        return self._on_the_classifier().perturb(bare, images, labels, image_ids, threat, seed)
