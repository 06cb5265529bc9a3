"""SPSA on a stochastic defense: a gradient from answers along directions of signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.attacks.base import register
from bench.attacks.nes_eot import NESEOT
from defenses.noise import Noise


@register
@dataclass(frozen=True, kw_only=True)
class SPSAEOT(NESEOT):
    """SPSA (Spall, 1992; as an attack Uesato et al., ICML 2018, Algorithm 1): `nes_eot` along directions of signs.

    The derivative is estimated from answers at x + sigma v and x - sigma v, every entry of v -1 or 1 with equal chance.
    Both answers of a pair are asked on the same draw of the noise, each pair on a draw of its own. Uesato et al. step
    by Adam; here the step decays along a cosine, as in `nes_eot`.

    Attributes:
        steps: at least 1.
        samples: pairs of answers a step, at least 1.
        sigma: width of the search, share of epsilon, > 0: of each pixel in Linf, of the vector v's length in L2,
            of the sum of its entries' sizes in L1.
        first_step: length of the first step, share of epsilon, > 0.
        momentum: weight of the older estimates in an exponential mean, in [0, 1).
        loss: "ce", "margin" or "dlr".
        start: "clean", or "transfer": the end of PGD on the bare classifier.
    """

    title: ClassVar[str] = "SPSA+EOT"
    source: ClassVar[str] = "Uesato et al., ICML 2018, arXiv:1802.05666, Algorithm 1; Spall, IEEE TAC 1992"
    continues: ClassVar[bool] = True

    sigma: float = 0.25

    def direction(self, noise: Noise, like: Tensor, pair: int) -> Tensor:
        """Signs of uniforms."""
        return (noise.uniform(like, step=pair) < 0.5).to(like.dtype) * 2 - 1
