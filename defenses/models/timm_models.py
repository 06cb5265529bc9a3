"""`timm:<name>`: classifiers of timm, with the normalisation that each was trained behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.models.info import ClassifierInfo
from defenses.models.sources import timm_source
from defenses.models.timm_names import timm_config

if TYPE_CHECKING:
    from torch import nn


def timm_classifier(name: str) -> ClassifierInfo:
    """The record of `timm:<name>`, e.g. timm:resnet18.a1_in1k.

    Args:
        name: with its tag, or without for the one that timm prefers.

    Raises:
        LookupError: timm does not know it, or has no weights for it on the hub.
    """
    config, source = timm_config(name), timm_source(name)

    def load() -> nn.Module:
        import timm

        from defenses.models.checkpoints import load_into, read
        from defenses.models.networks.normalized import Normalized

        network = timm.create_model(config.architecture, num_classes=config.num_classes)
        load_into(network, read(source))
        return Normalized(network, config.mean, config.std)

    return ClassifierInfo(
        name=name,
        title=config.architecture,
        datasets=("imagenet", "imagenet_sample") if config.num_classes == 1000 else (),
        load=load,
        find=source.find,
        source=source.where,
        licence=config.license or "as its model card says",
    )
