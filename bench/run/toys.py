"""Toy data sets and networks for smoke runs: random pictures, random weights, the real architectures made thin."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo, ImageSet, dataset_info, load_dataset
from bench.datasets.known import KNOWN
from bench.store.smoke_mark import SMOKE
from defenses.compat import import_robustbench
from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.models.score_models import NetworkScore

IMAGES = 4
CLASSES = 50  # at most: the embedding network of contrastive guidance has 18 weights for every pair of classes
SIDE = {224: 32, 256: 36}  # toy sides of large pictures
SHIPPED = frozenset(info.name for info in KNOWN)
MOST = 64  # side of one's own pictures, at most


def _side(dataset: str) -> int:
    """Side of the toy pictures: as it is, but thin, small and divisible by four where networks of our own stand by."""
    side = max(dataset_info(dataset).image_shape[-2:])
    if side in SIDE or dataset in SHIPPED:
        return SIDE.get(side, side)
    return min(MOST, max(8, 4 * round(side / 4)))


def toy_dataset(name: str, data_dir: Path | None = None) -> DatasetInfo:
    """A few pictures with the classes of the data set `name`: random ones, the first ones of a data set of one's own.

    Args:
        name: of the real data set.
        data_dir: folder of the data sets.
    """
    if name not in SHIPPED:
        return _own_pictures(name, data_dir)
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


def _own_pictures(name: str, data_dir: Path | None) -> DatasetInfo:
    info, side = dataset_info(name), _side(name)
    shape = (info.image_shape[0], side, side)

    def load(*_: Any) -> ImageSet:
        real = load_dataset(name, data_dir=data_dir)
        labels, names = torch.as_tensor(real.labels)[:IMAGES], real.class_names[:CLASSES]

        def read(rows: Any) -> Tensor:
            return nn.functional.interpolate(real.images(rows).float(), size=(side, side)).clamp(0, 1)

        return ImageSet(
            name=SMOKE + name, labels=labels.clamp(max=len(names) - 1), class_names=names, image_shape=shape, read=read,
            note="the first pictures",
        )  # fmt: skip

    return dataclasses.replace(
        info, name=SMOKE + name, classes=min(CLASSES, info.classes), image_shape=shape, load=load
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
    if channels != 3 or side not in (32, 36):  # the architectures below are made for these
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, classes))
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
    side = SIDE[256] if shape[-1] == 224 else _side(datasets[0])

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

    if channels != 3:
        return _Zero(), "continuous"
    if "guided" in name:
        return guided_unet(Layout(channels=(32, 32), blocks=1, attention=(False, True)), head=32), "index"
    return ddpmpp_unet(Layout(channels=(8, 8), blocks=1, attention=(False, True))), "continuous"


class _Zero(nn.Module):
    """Predicts no noise: the score network of pictures that are not in colour."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return 0 * x
