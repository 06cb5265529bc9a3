"""The strongest standard protocol here: cheap attacks, then long ones with the exact gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bench.attacks.base import Attack, Trace, check_positive, register
from bench.attacks.cascade import Cascade, Member
from bench.attacks.momentum_pgd import MomentumPGD
from bench.threat import ThreatModel
from defenses.base import Defended, Gradient

REFERENCE_EPSILON = 8 / 255  # the radius that Lee & Kim's step of 0.007 belongs to


@register
@dataclass(frozen=True, kw_only=True)
class Gold(Attack):
    """The worst case per image over long attacks, see `Cascade`.

    Transfer PGD, straight-through PGD, then PGD+EOT (Lee & Kim, ICCV 2023) from the clean image and from a random
    start, APGD+EOT with CE and with the margin loss (Croce & Hein, ICML 2020), all three with the threat model's
    gradient, and NES, which needs none and crosses plateaus. Where the defense has guidance, PGD+EOT also holds it
    constant: the exact derivative of guidance can be so large that it leads nowhere, and robustness by a useless
    gradient is none.

    Attributes:
        steps: of each PGD, at least 1; its step is 0.007 at epsilon 8/255 and proportional to epsilon.
        apgd_steps: of each APGD and of NES, at least 1.
        eot: draws a step, at least 1, in one batch; 1 for the transfer, whose gradient has no noise. Also the pairs of
            answers in a step of NES.
        restarts: of PGD with the threat model's gradient, at least 1, the first from the clean image.
        check_draws: see `Cascade`.
        settled: see `Cascade`.
    """

    title: ClassVar[str] = "gold"
    source: ClassVar[str] = "Lee & Kim, ICCV 2023, arXiv:2303.09051; Croce & Hein, ICML 2020, arXiv:2003.01690"

    continues: ClassVar[bool] = True
    version: ClassVar[int] = 3

    steps: int = 200
    apgd_steps: int = 100
    eot: int = 20
    restarts: int = 2
    check_draws: int = 20
    settled: float = 1.0

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, apgd_steps=self.apgd_steps, eot=self.eot, restarts=self.restarts)
        self.cascade(REFERENCE_EPSILON)  # checks the other fields

    def cascade(self, epsilon: float, *, guided: bool = False, restarts: int | None = None) -> Cascade:
        """The members, with `guided` those that hold guidance constant too.

        Args:
            epsilon: radius, image units, > 0.
            guided: whether the defense has "guidance_detached" gradients.
        """
        pgd: dict[str, Any] = {
            "steps": self.steps,
            "step_size": 0.007 * max(epsilon, 1e-9) / REFERENCE_EPSILON,
            "eot": self.eot,
        }
        exact = {**pgd, "start": "zero_then_random", "restarts": restarts or self.restarts, "select": "best"}
        apgd = {"steps": self.apgd_steps, "eot": self.eot}
        constant: tuple[Member, ...] = (("pgd_eot", pgd, "guidance_detached"),) if guided else ()
        return Cascade(
            members=(
                ("pgd_eot", {**pgd, "eot": 1}, "transfer"),
                ("pgd_eot", pgd, "straight_through"),
                *constant,
                ("pgd_eot", exact, None),
                ("apgd_eot", {**apgd, "loss": "ce"}, None),
                ("apgd_eot", {**apgd, "loss": "margin"}, None),
                ("nes_eot", {"steps": self.apgd_steps, "samples": self.eot}, None),
            ),
            check_draws=self.check_draws,
            settled=self.settled,
        )

    def representative(self, threat: ThreatModel) -> Attack:
        """A single-draw PGD of as much strength at a fiftieth of the cost, so that gates take a part of gold's."""
        return MomentumPGD(steps=max(1, self.steps * 8 // 5))

    def tried(self) -> frozenset[Gradient]:
        """The members' own kinds."""
        return self.cascade(REFERENCE_EPSILON).tried()

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for an image that nothing settles."""
        return self.cascade(REFERENCE_EPSILON).queries()

    def looks(self) -> int:
        """See `Cascade.looks`."""
        return self.cascade(REFERENCE_EPSILON).looks()

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
        guided = "guidance_detached" in model.kinds and threat.gradient == "exact"
        cascade = self.cascade(threat.epsilon, guided=guided)
        return cascade.perturb(model, images, labels, image_ids, threat, seed, trace=trace)
