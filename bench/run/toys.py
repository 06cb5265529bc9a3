"""Toy data sets and networks for smoke runs: random pictures, random weights, the real architectures made thin."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo, ImageSet, dataset_info
from bench.store.smoke_mark import SMOKE
from defenses.compat import import_robustbench
from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.models.score_models import NetworkScore

IMAGES = 4
CLASSES = 50  # at most: the embedding network of contrastive guidance has 18 weights for every pair of classes
SIDE = {224: 32, 256: 36}  # toy sides of large pictures


def _side(dataset: str) -> int:
    side = dataset_info(dataset).image_shape[-1]
    return SIDE.get(side, side)


def toy_dataset(name: str) -> DatasetInfo:
    """A few random pictures, with the classes of the data set `name`."""
    info, side = dataset_info(name), _side(name)
    shape = (info.image_shape[0], side, side)
    images = torch.rand((IMAGES, *shape), generator=torch.Generator().manual_seed(0))
    pictures = ImageSet(
        name=SMOKE + name,
        labels=torch.zeros(IMAGES, dtype=torch.int64),
        class_names=tuple(map(str, range(min(CLASSES, info.classes)))),
        image_shape=shape,
        read=lambda rows: images[rows],
        note="random",
    )
    return dataclasses.replace(
        info, name=SMOKE + name, image_shape=shape, source="random", place="nothing", load=lambda *_: pictures
    )


class _ToyClassifier(ClassifierInfo):
    def weights_sha256(self) -> str:
        return "random weights"


class _ToyScore(ScoreInfo):
    def weights_sha256(self) -> str:
        return "random weights"


def _no_file() -> Path:
    raise LookupError("A toy network has random weights and no file.")


def toy_classifier(name: str, *datasets: str) -> ClassifierInfo:
    """A classifier of the architecture that `name` speaks of, at toy width and depth.

    Args:
        name: of the real classifier.
        datasets: names of the real data sets that it is used on, all of one shape.
    """
    info = dataset_info(datasets[0])

    def load() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = _architecture(name, min(CLASSES, info.classes), info.image_shape[0], _side(datasets[0]))
        return nn.Sequential(network, _Lean()).eval().requires_grad_(False)

    return _ToyClassifier(
        name=SMOKE + name,
        title=name,
        datasets=tuple(SMOKE + dataset for dataset in datasets),
        load=load,
        find=_no_file,
        source="random",
        licence="none",
    )


class _Lean(nn.Module):
    """Logits (batch, classes) with a little more for class 0."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits + 2 * nn.functional.one_hot(logits.new_zeros(len(logits)).long(), logits.shape[1])


def _architecture(name: str, classes: int, channels: int, side: int) -> nn.Module:
    size = {"num_classes": classes, "embed_dim": 16, "depth": 1, "num_heads": 2}
    if channels == 1:
        return nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))
    if "xcit" in name:
        from timm.models.xcit import Xcit

        return Xcit(img_size=side, patch_size=16, cls_attn_layers=1, **size)
    if "deit" in name:
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(img_size=side, patch_size=8, **size)
    if "imagenet" in name:
        from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

        return ResNet(BasicBlock if "18" in name else Bottleneck, [1, 1, 1, 1], num_classes=classes, width_per_group=64)
    import_robustbench()
    if "resnet" in name:
        from robustbench.model_zoo.architectures import resnet

        return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=classes)
    from robustbench.model_zoo.architectures.wide_resnet import WideResNet

    return WideResNet(depth=10, num_classes=classes, widen_factor=1)


def toy_score(name: str, *datasets: str) -> ScoreInfo:
    """A U-Net of the kind that `name` speaks of, at toy width and depth.

    Args:
        name: of the real score network.
        datasets: names of the real data sets that it is used on, all of one shape.
    """
    shape = dataset_info(datasets[0]).image_shape
    side = 256 if shape[-1] == 224 else shape[-1]
    side = SIDE.get(side, side)

    def load() -> NetworkScore:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network, labels = _unet(name, shape[0])
        return NetworkScore(network.eval().requires_grad_(False), (shape[0], side, side), labels=labels)

    return _ToyScore(
        name=SMOKE + name,
        title=name,
        datasets=tuple(SMOKE + dataset for dataset in datasets),
        load=load,
        find=_no_file,
        source="random",
        licence="none",
    )


def _unet(name: str, channels: int) -> tuple[nn.Module, Any]:
    from defenses.models.networks.unet import Layout, ddpmpp_unet, guided_unet

    if channels == 1:
        return _Zero(), "continuous"
    if "guided" in name:
        return guided_unet(Layout(channels=(32, 32), blocks=1, attention=(False, True)), head=32), "index"
    return ddpmpp_unet(Layout(channels=(8, 8), blocks=1, attention=(False, True))), "continuous"


class _Zero(nn.Module):
    """Predicts no noise: the score network of one-channel pictures."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return 0 * x
