"""Images that somebody else's attack made: judged like those of any other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks.base import Attack, Trace, attacks
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended
from defenses.registry import unknown_name

NAME = "external"
_IMAGES: dict[str, dict[int, Tensor]] = {}  # sum -> image id -> image: what was handed over in this process


@dataclass(frozen=True, kw_only=True)
class External(Attack):
    """Adversarial images from elsewhere, by `bench verify --images`. No grid can name it.

    Attributes:
        by: who made them.
        images: sha256 of the images and their places in the data set.
    """

    name: ClassVar[str] = NAME
    title: ClassVar[str] = "images made elsewhere"
    source: ClassVar[str] = "Whoever the row names (`by`)."
    gradient_free: ClassVar[bool] = True
    given: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    always_shown: ClassVar[tuple[str, ...]] = ("by",)

    by: str = ""
    images: str = ""

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
        """The images as they were handed over; see `Attack.perturb`."""
        known = _IMAGES.get(self.images)
        if known is None:
            raise ValueError(
                f"Expected the adversarial images of {self.by}, found none: they are handed over with "
                "`bench verify --images`."
            )
        found = images.clone()
        for place, image in enumerate(image_ids.tolist()):
            found[place] = known[image].to(images)
        return found


def hand_over(images: Tensor, index: Tensor, by: str) -> External:
    """The attack that hands over these images, in this process.

    Args:
        images: (n, channels, height, width) float32 in [0, 1].
        index: (n,) their places in the test split.
        by: who made them.
    """
    pixels = images.detach().cpu().float().contiguous()
    digest = hashlib.sha256(pixels.numpy().tobytes())  # the bytes of every pixel, then every place
    digest.update(index.cpu().long().numpy().tobytes())
    _IMAGES[digest.hexdigest()] = dict(zip(index.tolist(), pixels, strict=True))
    return External(by=by, images=digest.hexdigest())


def _find(name: str) -> type[Attack]:
    if name != NAME:
        raise unknown_name("attack", name, attacks)
    return External


attacks.resolve(NAME, _find)
