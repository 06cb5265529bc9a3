"""PGD whose iterates pass through a diffusion model before the classifier: adversarial images near the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from bench.attacks.base import Attack, NoSuchAttack, Trace, check_positive, register
from bench.attacks.losses import Loss
from bench.attacks.pgd_eot import PGDEOT
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.ddim import DDIM
from defenses.defended import purify_retried
from defenses.noise import Noise, role_seed

Through = Literal["exact", "straight_through"]


@register
@dataclass(frozen=True, kw_only=True)
class DiffPGD(Attack):
    """Diff-PGD (Xue, Araujo, Hu & Chen, NeurIPS 2023, arXiv:2305.16494): PGD on the bare classifier behind SDEdit.

    x <- proj(x + step_size d(grad loss(classifier(SDEdit(x))))). SDEdit noises the iterate to time t with a fresh draw
    and denoises it by DDIM; its network is the defense's own, which the attacker knows. The image handed over is
    SDEdit of the last iterate, projected, as the authors show it; "iterate" hands over the last iterate itself. The
    defense is never asked: what breaks it is the transfer of images that a diffusion model would draw.

    Attributes:
        steps: at least 1.
        step_size: length of a step, image units, > 0.
        eot: draws of SDEdit a step, at least 1; the authors take one.
        t: diffusion time of SDEdit, in (0, 1].
        denoising_steps: DDIM steps of SDEdit, at least 1, at most the levels of t.
        through: gradient of SDEdit: "exact" (the paper's formula), or "straight_through" (the gradient at the denoised
            image goes to the iterate; the setting that the released script runs).
        result: "denoised" or "iterate".
        loss: "ce", "margin" or "dlr".
        start: "zero" or "random".
    """

    title: ClassVar[str] = "Diff-PGD"
    source: ClassVar[str] = "Xue, Araujo, Hu & Chen, NeurIPS 2023, arXiv:2305.16494, and its released code"
    gradient_free: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    steps: int = 10
    step_size: float = 2 / 255
    eot: int = 1
    t: float = 0.06
    denoising_steps: int = 3
    through: Through = "exact"
    result: Literal["denoised", "iterate"] = "denoised"
    loss: Loss = "ce"
    start: Literal["zero", "random"] = "random"

    def __post_init__(self) -> None:
        check_positive(denoising_steps=self.denoising_steps)
        self._ascent()
        self._editor()

    def _ascent(self) -> PGDEOT:
        return PGDEOT(steps=self.steps, step_size=self.step_size, eot=self.eot, loss=self.loss, start=self.start)

    def _editor(self) -> DDIM:
        return DDIM(t=self.t, steps=self.denoising_steps)

    def queries(self) -> tuple[int, int]:
        """The defense is never asked; as many answers stand for what SDEdit costs."""
        return self.steps * self.eot + 1, 0

    def looks(self) -> int:
        """None: the defense is never asked."""
        return 0

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
        """Adversarial images; see `Attack.perturb`. Raises NoSuchAttack for a defense without a score network."""
        edited = self._editor().defend(model.classifier, _score_of(model), gradient=self.through)
        x = self._ascent().perturb(edited, images, labels, image_ids, threat, seed)
        if self.result == "iterate":
            return x
        last = purify_retried(edited, x, Noise(role_seed(seed, "diff_pgd: last"), image_ids))
        return threat.project(last, images)


def _score_of(model: Defended) -> Any:
    """The score network of a defense."""
    found: list[Any] = []

    def look(score: Any) -> Any:
        found.append(score)
        return score

    if model.with_score is not None:
        model.with_score(look)
    if not found or not hasattr(found[0], "epsilon_at"):
        raise NoSuchAttack(
            "Diff-PGD edits images by the defense's score network, and this defense has none that knows diffusion "
            "times. Use transfer or pgd_eot."
        )
    return found[0]
