"""A defense as an attacker sees it who computes in low precision or by compiled networks; others see the defense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from defenses.defended import Defended, Gradient, Purify
from defenses.noise import NoiseSource
from defenses.precision import Precision, arithmetic


class AttackedDefense(Defended):
    """Where gradients are recorded it is `low`, elsewhere `real` in float32: check draws and judges see the defense.

    Attributes:
        attack_precision: what the recorded passes compute in.
        real: the defense.
        low: the same defense around a score network in low precision, or around compiled networks; for TF32 the
            defense itself.
    """

    as_judged = False

    def __init__(self, real: Defended, low: Defended, precision: Precision) -> None:
        """Put two builds of one defense together.

        Args:
            real: see the attribute.
            low: see the attribute.
            precision: see the attribute `attack_precision`.
        """
        super().__init__(
            low.purify,
            real.classifier,
            gradient=real.gradient,
            runs=real.runs,
            combine=real.combine,
            votes=real.votes,
            batch_coupled=real.batch_coupled,
            stochastic=real.stochastic,
            with_score=low.with_score,
        )
        self.real, self.low, self.attack_precision = real, low, precision
        self.kinds = real.kinds
        self.rows_at_once = low.rows_at_once = real.rows_at_once

    def with_gradient(self, gradient: Gradient) -> Defended:
        """See `Defended.with_gradient`."""
        return self._both(lambda model: model.with_gradient(gradient))

    def sealed(self) -> Defended:
        """See `Defended.sealed`."""
        return self._both(lambda model: model.sealed())

    def with_purify(self, wrap: Callable[[Purify], Purify]) -> Defended:
        """See `Defended.with_purify`."""
        return self._both(lambda model: model.with_purify(wrap))

    def forward(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """See `Defended.forward`."""
        return self._ask(lambda model: model(images, noise), images)

    def purify(self, images: Tensor, noise: NoiseSource) -> Tensor:
        """See `Defended.purify`."""
        return self._ask(lambda model: model.purify(images, noise), images)

    def look(self, images: Tensor, noise: NoiseSource | None = None) -> None:
        """See `Defended.look`; of both builds."""
        for model in (self.real, self.low):
            model.look(images, noise)

    def _ask(self, ask: Callable[[Defended], Tensor], images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return ask(self.low)
        with arithmetic():
            return ask(self.real)

    def _both(self, change: Callable[[Defended], Any]) -> AttackedDefense:
        return AttackedDefense(change(self.real), change(self.low), self.attack_precision).train(self.training)
