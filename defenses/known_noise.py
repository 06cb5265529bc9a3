"""A defense whose noise the attacker knows: one recorded draw for each image, in every answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from defenses.defended import Defended, Gradient, Purify
from defenses.noise import Noise, NoiseSource, role_seed


class KnownNoise(Defended):
    """A deterministic function of the image and its id: whatever draw is asked for, the answer is of draw 0.

    Attributes:
        real: the defense with its noise.
        seed: of the recorded draw.
    """

    def __init__(self, real: Defended, seed: int) -> None:
        """Record the noise of a defense.

        Args:
            real: see the attribute.
            seed: see the attribute.
        """
        with_score = real.with_score
        super().__init__(
            lambda images, noise: real.purify(images, record(noise, seed)),
            real.classifier,
            gradient=real.gradient,
            runs=real.runs,
            combine=real.combine,
            votes=real.votes,
            batch_coupled=real.batch_coupled,
            stochastic=False,
            with_score=None if with_score is None else lambda change: _recorded(with_score(change), seed),
        )
        self.real, self.seed, self.attack_precision = real, seed, real.attack_precision
        self.as_judged = real.as_judged
        self.kinds, self.rows_at_once = real.kinds, real.rows_at_once
        self.training = real.training  # alone: `train` would change the classifier, which others share

    def with_gradient(self, gradient: Gradient) -> Defended:
        """See `Defended.with_gradient`."""
        return self._of(self.real.with_gradient(gradient))

    def sealed(self) -> Defended:
        """See `Defended.sealed`."""
        return self._of(self.real.sealed())

    def with_purify(self, wrap: Callable[[Purify], Purify]) -> Defended:
        """See `Defended.with_purify`."""
        return self._of(self.real.with_purify(wrap))

    def __call__(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """See `Defended.forward`. Raises ValueError without noise: then nothing says which images these are."""
        if noise is None:
            raise ValueError("Expected the noise of these images, found None: their ids say which draw is known.")
        return super().__call__(images, noise)

    def forward(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """See `Defended.forward`."""
        return self.real(images, None if noise is None else record(noise, self.seed))

    def purify(self, images: Tensor, noise: NoiseSource) -> Tensor:
        """See `Defended.purify`."""
        return self.real.purify(images, record(noise, self.seed))

    def look(self, images: Tensor, noise: NoiseSource | None = None) -> None:
        """See `Defended.look`."""
        self.real.look(images, None if noise is None else record(noise, self.seed))

    def _of(self, real: Defended) -> KnownNoise:
        return KnownNoise(real, self.seed)


def know_noise(model: Defended, seed: int) -> KnownNoise:
    """The defense with its recorded draws, the same ones for one seed of a cell.

    Args:
        model: the defense; one whose draws are recorded already is returned as it is.
        seed: of the cell.
    """
    return model if isinstance(model, KnownNoise) else KnownNoise(model, role_seed(seed, "known noise"))


def record(noise: NoiseSource, seed: int) -> NoiseSource:
    """Draw 0 of `seed` for every row's image; a source other than `Noise` is recorded already."""
    return Noise(seed, noise.image_ids, 0) if isinstance(noise, Noise) else noise


def _recorded(purify: Any, seed: int) -> Purify:
    return lambda images, noise: purify(images, record(noise, seed))
