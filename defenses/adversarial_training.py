"""Adversarially trained classifiers: robustness without a purifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from defenses.base import Defended, Defense, Gradient, Networks, register
from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import NoiseSource

if TYPE_CHECKING:
    from defenses.models.classifiers import ClassifierInfo


@register
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """A classifier trained on adversarial examples (Madry et al., ICLR 2018, Eq. 2.1), in place of the cell's own.

    `info` says where the network comes from: its source, its licence, its published accuracy. There is no purifier, so
    every kind of gradient but "none" is the network's own. To put a purifier in front of such a network, name it as the
    cell's classifier instead.

    Attributes:
        model: name of a classifier, ours or `robustbench:<dataset>:<threat>:<model>` for a model of the RobustBench zoo
            (Croce et al., NeurIPS 2021 Datasets and Benchmarks) that is one file.
    """

    title: ClassVar[str] = "adversarial training"
    always_shown: ClassVar[tuple[str, ...]] = ("model",)
    source: ClassVar[str] = "Madry et al., ICLR 2018, arXiv:1706.06083, Eq. 2.1; the model's own source in `info`"
    stochastic: ClassVar[bool] = False

    model: str = "digits_cnn_at"

    @property
    def info(self) -> ClassifierInfo:
        """Source, licence and published accuracy of the model, without loading it. LookupError for an unknown name."""
        from defenses.models.classifiers import classifier_info

        return classifier_info(self.model)

    def networks(self) -> Networks:
        """The classifier `model`."""
        return Networks(classifiers=(self.model,))

    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """The robust network, on the device and in the precision of `classifier`, whose weights are not used.

        Raises MissingWeights where the model's file is not here.
        """
        self.check_gradient(gradient)
        from defenses.models.classifiers import load_classifier

        robust = load_classifier(self.model)
        like = next(classifier.parameters(), None)
        network = robust if like is None else robust.to(like)
        return Defended(_identity, network, gradient=gradient, stochastic=self.stochastic, kinds=self.gradients)


def _identity(images: Tensor, noise: NoiseSource) -> Tensor:
    return images
