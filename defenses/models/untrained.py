"""Networks by name with untrained weights: what a forecast counts operations on where the weights are elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.models.classifiers import classifier_info
from defenses.models.scores import score_info

if TYPE_CHECKING:  # torch takes a second to import
    from torch import nn

    from defenses.models.score_models import DataScore, ScoreModel

DDPMPP = ("ddpmpp_cifar10", "ddpmpp_cifar100", "ddpmpp_gtsrb")
SMALL_DDPM = ("ddpm_mnist", "ddpm_fashion")
ROBUSTBENCH = "robustbench:"


def knows_classifier(name: str) -> bool:
    """Whether the architecture of a classifier is known without its file."""
    from defenses.models.classifier_zoo import ARCHITECTURES

    return name in ARCHITECTURES or name.startswith(ROBUSTBENCH)


def knows_score(name: str) -> bool:
    """Whether the architecture of a score network is known without its file."""
    return name in (*DDPMPP, *SMALL_DDPM, "guided256")


def untrained_classifier(name: str) -> nn.Module:
    """The architecture of a classifier, on torch's default device; the network itself where it is known by its file.

    Raises:
        LookupError: an unknown name, or an unknown architecture whose file is not on this machine.
    """
    from defenses.models.classifier_zoo import ARCHITECTURES

    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    if name.startswith(ROBUSTBENCH):
        from defenses.models.robustbench_models import untrained

        return untrained(name)
    return classifier_info(name).load()


def untrained_score(name: str) -> ScoreModel | DataScore:
    """As `untrained_classifier`, of a score network."""
    if not knows_score(name):
        return score_info(name).load()
    from defenses.models.networks.unet import ddpmpp_unet, guided_unet
    from defenses.models.score_models import NetworkScore

    if name in SMALL_DDPM:
        from defenses.models.networks.small_ddpm import SmallDDPM

        return NetworkScore(SmallDDPM(), (1, 28, 28), labels="index")
    if name in DDPMPP:
        return NetworkScore(ddpmpp_unet(), (3, 32, 32))
    return NetworkScore(guided_unet(), (3, 256, 256), labels="index")
