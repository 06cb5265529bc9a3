"""Total variation denoising before the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Purifier, Purify, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class TotalVariation(Purifier):
    """Total variation minimisation (Rudin, Osher & Fatemi, Physica D 1992; as a defense Guo et al., ICLR 2018).

    Each channel y becomes the minimiser of |u - y|^2 / 2 + weight TV(u), by Chambolle's projection (J. Math. Imaging
    and Vision 2004) as scikit-image has it, on the CPU. Guo et al. also drop random pixels and use Bregman splitting;
    this is the deterministic, complete-image form.

    Attributes:
        weight: weight of the total variation against the squared distance, image units, > 0; about 0.1 is customary.
        tolerance: stop once the objective, a mean over pixels, changes by less than this share of its first value, > 0.
        iterations: iterations at most, >= 1.
    """

    title: ClassVar[str] = "total variation"
    source: ClassVar[str] = "Rudin, Osher & Fatemi, Physica D 60, 1992; Guo et al., ICLR 2018, arXiv:1711.00117"
    stochastic: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ()

    weight: float = 0.1
    tolerance: float = 2e-4
    iterations: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weight > 0 and self.tolerance > 0 and self.iterations >= 1):
            raise ValueError(
                "Expected weight > 0, tolerance > 0 and iterations >= 1, got "
                f"{self.weight}, {self.tolerance} and {self.iterations}."
            )

    def build(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        from skimage.restoration import denoise_tv_chambolle

        settings = {"weight": self.weight, "eps": self.tolerance, "max_num_iter": self.iterations}

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            arrays = images.detach().cpu().numpy()
            return torch.stack(
                [torch.from_numpy(denoise_tv_chambolle(image, channel_axis=0, **settings)) for image in arrays]
            ).to(images)

        return purify
