"""Score networks that can be told the class of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from defenses.diffusion.schedule import VPSchedule
from defenses.models.score_models import Labels, NetworkScore, ScoreModel


@runtime_checkable
class ClassConditional(Protocol):
    """A family of score models, one for each class. Most also are a `ScoreModel` for images of any class.

    Attributes:
        classes: number of classes.
    """

    classes: int

    def given(self, labels: Tensor) -> ScoreModel:
        """The score model of images of these classes: `labels` (batch,) in 0..classes-1, one an image of the batch."""
        ...


class ConditionalScore(NetworkScore):
    """A `NetworkScore` that can be told the class of each image.

    Attributes:
        network: (x_t, label (batch,), classes (batch,) or None) -> noise; no classes stand for any class.
        classes: number of classes.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        image_shape: tuple[int, int, int],
        *,
        classes: int,
        labels: Labels = "continuous",
        schedule: VPSchedule | None = None,
    ) -> None:
        super().__init__(network, image_shape, labels=labels, schedule=schedule)
        self.classes = classes

    def given(self, labels: Tensor) -> ScoreModel:
        """See `ClassConditional.given`."""

        def network(x: Tensor, label: Tensor) -> Tensor:
            return self.network(x, label, labels)  # type: ignore[call-arg]

        return NetworkScore(network, self.image_shape, labels=self.labels, schedule=self.schedule)
