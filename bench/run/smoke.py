"""`bench run --smoke`: a grid's code paths on toy networks with random weights and random pictures, in minutes.

Every data set and network of a toy cell has a name that begins with `bench.store.smoke_mark.SMOKE`; such rows are
never results. The architectures and the difference between picture and diffusion size stay, the widths shrink. Toy
classifiers lean towards the right answer, so that an attack has something to break.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks._short import cut_short
from bench.cell import Cell, Tier
from bench.datasets import DATASETS, DatasetInfo, ImageSet, dataset_info
from bench.run.prepare import names_of
from bench.store.smoke_mark import SMOKE
from defenses.base import Defense
from defenses.compat import import_robustbench
from defenses.models.classifiers import CLASSIFIERS
from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.models.score_models import NetworkScore
from defenses.models.scores import SCORES

IMAGES = 4
CLASSES = 50  # at most: the embedding network of contrastive guidance has 18 weights for every pair of classes
SIDE = {224: 32, 256: 36}  # toy sides of large pictures
DEFENSE = {"steps": 2, "rounds": 2, "runs": 2, "guide_from": 1}
ATTACK = {
    **dict.fromkeys(("steps", "apgd_steps", "check_draws"), 1),
    **dict.fromkeys(("eot", "restarts", "defense_replicates", "queries"), 2),
}
"""The largest values that fields of toy defenses and attacks keep."""


def toy_cells(cells: Sequence[Cell]) -> list[Cell]:
    """A small cell for every kind of cell, each once: seeds and numbers of pictures do not make another kind.

    Only the first of each defense keeps its tier, and with it the gates, which cost more than all the rest.
    """
    found: dict[str, Cell] = {}
    firsts: set[str] = set()
    for cell in cells:
        key = toy_cell(cell, "quick").key
        if key not in found:
            tier = "quick" if cell.defense.name in firsts else cell.tier
            found[key] = toy_cell(cell, tier)
            firsts.add(cell.defense.name)
    return list(found.values())


def toy_cell(cell: Cell, tier: Tier) -> Cell:
    """The same path through the code with two pictures, two steps, two draws."""
    classifiers, scores = names_of(cell)
    return dataclasses.replace(
        cell,
        dataset=SMOKE + cell.dataset,
        classifier=SMOKE + cell.classifier,
        score=SMOKE + cell.score if cell.score else None,
        defense=_small(_marked(cell.defense, {*classifiers, *scores}), DEFENSE),
        attack=_small(cell.attack, ATTACK),
        num_images=2,
        data_seed=0,
        seed=0,
        batch_size=2,
        draws=2,
        tier=tier,
        published=None,
    )


def _marked(part: Any, networks: set[str]) -> Any:
    """A defense whose own networks, named by its fields or by those of its members, are the toys."""
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    named = {name: SMOKE + value for name, value in fields.items() if isinstance(value, str) and value in networks}
    members = {
        name: tuple(_marked(member, networks) for member in value)
        for name, value in fields.items()
        if isinstance(value, tuple) and all(isinstance(member, Defense) for member in value)
    }
    return dataclasses.replace(part, **named, **members)


def _small(part: Any, most: Mapping[str, int]) -> Any:
    """A defense or an attack with its costly fields cut down; `steps` that follow from t are set."""
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    cut = {name: min(value, most[name]) for name, value in fields.items() if name in most and isinstance(value, int)}
    if "steps" in fields and fields["steps"] is None:
        cut["steps"] = most["steps"]
    return dataclasses.replace(part, **cut)


@contextmanager
def toy_world(cells: Sequence[Cell]) -> Iterator[None]:
    """While it lasts, the data sets and networks of the toy cells are known, and AutoAttack and the gates' search take
    two steps."""
    datasets = [toy_dataset(name) for name in dict.fromkeys(cell.dataset for cell in cells)]
    classifiers = [toy_classifier(name, *of) for name, of in _uses(cells, 0).items()]
    scores = [toy_score(name, *of) for name, of in _uses(cells, 1).items()]
    with (
        DATASETS.temporarily(datasets),
        CLASSIFIERS.temporarily(classifiers),
        SCORES.temporarily(scores),
        cut_short(2),
    ):
        yield


def _uses(cells: Sequence[Cell], kind: int) -> dict[str, list[str]]:
    """Name of each classifier (kind 0) or score network (1) behind the cells -> the data sets that it is used on."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for name in names_of(cell)[kind]:
            used = found.setdefault(name, [])
            used += [cell.dataset] * (cell.dataset not in used)
    return found


def _side(dataset: str) -> int:
    side = dataset_info(dataset).image_shape[-1]
    return SIDE.get(side, side)


def toy_dataset(name: str) -> DatasetInfo:
    """Random pictures, a few, with the classes of the data set `name`."""
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
    """A network of the architecture that `name` speaks of, at toy width and depth, for data sets of one shape."""
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
    """A U-Net of the kind that `name` speaks of, at toy width and depth, for data sets of one shape."""
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
