"""The public classifiers' architectures, with the normalisation that each was trained behind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from defenses.compat import import_robustbench
from defenses.models.checkpoints import load_into
from defenses.models.networks.cifar_resnet import CifarResNet
from defenses.models.networks.normalized import CIFAR10_MEAN, CIFAR10_STD, Normalized
from defenses.registry import unknown_name


def architecture(name: str) -> Normalized:
    """The untrained network of a public classifier, for [0, 1] images. LookupError for an unknown name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]()


def with_weights(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    """The public architecture `name` with the weights of a bare state dict; ValueError where they do not fit."""
    network = architecture(name)
    load_into(network.network, state)
    return network


def _robustbench(module: str) -> Any:
    import_robustbench()
    return importlib.import_module(f"robustbench.model_zoo.architectures.{module}")


def _cifar10_resnet50() -> Normalized:
    return Normalized(_robustbench("resnet").ResNet50(), CIFAR10_MEAN, CIFAR10_STD)


def _cifar10_wrn70_16() -> Normalized:
    network = _robustbench("wide_resnet").WideResNet(depth=70, widen_factor=16, dropRate=0.3)
    return Normalized(network, CIFAR10_MEAN, CIFAR10_STD)


def _gtsrb_resnet18() -> Normalized:
    resnet = _robustbench("resnet")
    return Normalized(resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2], num_classes=43))


def _cifar100_wrn28_10() -> Normalized:
    """Normalised twice, as it was trained (docs/methods.md, Networks): by ImageNet's statistics outside, by CIFAR-100's
    inside."""
    dm = _robustbench("dm_wide_resnet")
    return Normalized(
        dm.DMWideResNet(
            num_classes=100, depth=28, width=10, activation_fn=dm.Swish, mean=dm.CIFAR100_MEAN, std=dm.CIFAR100_STD
        )
    )


def _torchvision(name: str) -> Callable[[], Normalized]:
    def make() -> Normalized:
        import torchvision

        return Normalized(torchvision.models.get_model(name))

    return make


def _timm(name: str) -> Callable[[], Normalized]:
    def make() -> Normalized:
        import timm

        return Normalized(timm.create_model(name))

    return make


def _cifar_resnet(depth: int) -> Callable[[], Normalized]:
    return lambda: Normalized(CifarResNet(depth))


ARCHITECTURES: dict[str, Callable[[], Normalized]] = {
    **{f"cifar_resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56)},
    "diffpure_resnet50": _cifar10_resnet50,
    "diffpure_wrn70_16_dropout": _cifar10_wrn70_16,
    "gtsrb_resnet18": _gtsrb_resnet18,
    "cifar100_wrn28_10": _cifar100_wrn28_10,
    "imagenet_resnet18": _torchvision("resnet18"),
    "imagenet_resnet50": _torchvision("resnet50"),
    "imagenet_wrn50_2": _torchvision("wide_resnet50_2"),
    "imagenet_deit_s": _timm("deit_small_patch16_224"),
    "imagenet_xcit_s24": _timm("xcit_small_24_p16_224"),
}
