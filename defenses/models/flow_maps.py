"""Networks of the probability flow that predict no noise: velocities and consistency functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from defenses.diffusion.schedule import VPSchedule

SIGMA_DATA, SIGMA_MIN = 0.5, 0.002  # of consistency models: spread of the data, and where the flow ends


class FlowMap(nn.Module):
    """What stands where a score network is expected, for the one defense that knows how to use it. Abstract.

    Attributes:
        network: (x, label (batch,)) -> shape of x.
        image_shape: (channels, height, width).
        schedule: the linear VP schedule, for what asks for one; these networks have none.
        used_by: name of the defense.
    """

    used_by: str = ""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.image_shape = network, image_shape
        self.schedule = VPSchedule()

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Raise ValueError: there is no noise prediction."""
        raise ValueError(
            f"Expected a network that predicts the noise, found a {type(self).__name__}. Use it with the defense "
            f"{self.used_by}, or give the cell another `score`."
        )

    def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
        """Raise ValueError, as `epsilon` does."""
        return self.epsilon(x_t, index)

    def epsilon_and_log_variance(self, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raise ValueError, as `epsilon` does."""
        return self.epsilon(x_t, index), None


class VelocityMap(FlowMap):
    """The velocity of a flow from corrupted images, t = 0, to clean ones, t = 1 (Lipman et al., ICLR 2023, Eq. 9).

    The label is t itself, in [0, 1], and images are in [0, 1]: a network of score_sde's layout is shown 999 t where it
    predicts noise, and its weights are useless with the other label.
    """

    used_by = "flowpure"

    def velocity(self, images: Tensor, t: Tensor) -> Tensor:
        """d image / dt, shape of the images.

        Args:
            images: (batch, channels, height, width) in [0, 1] space.
            t: (batch,) flow times in [0, 1].
        """
        return self.network(images, t)


class ConsistencyMap(FlowMap):
    """A consistency model in EDM's preconditioning (Song, Dhariwal, Chen & Sutskever, ICML 2023, Eq. 5 and appendix C).

    The raw network F sees y / sqrt(sigma^2 + 0.25) and the label log(sigma) / 4.
    """

    used_by = "consistency"

    def consistency(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The end of the probability flow through y, f(y, sigma); f(y, 0.002) = y.

        Args:
            y: (batch, channels, height, width), images in the [-1, 1] space plus noise.
            sigma: (batch,), standard deviation of that noise, in [0.002, 80].
        """
        level, root = _level_and_root(sigma, y)
        past = level - SIGMA_MIN
        return SIGMA_DATA**2 / (past**2 + SIGMA_DATA**2) * y + SIGMA_DATA * past / root * self._raw(y, sigma, root)

    def denoiser(self, y: Tensor, sigma: Tensor) -> Tensor:
        """EDM's denoiser of the same F: what it would be, had F been trained to denoise. Arguments as `consistency`."""
        level, root = _level_and_root(sigma, y)
        return (SIGMA_DATA / root) ** 2 * y + SIGMA_DATA * level / root * self._raw(y, sigma, root)

    def _raw(self, y: Tensor, sigma: Tensor, root: Tensor) -> Tensor:
        return self.network(y / root, torch.log(sigma) / 4)


def _level_and_root(sigma: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    level = sigma.view(-1, *[1] * (y.ndim - 1))
    return level, torch.sqrt(level**2 + SIGMA_DATA**2)
