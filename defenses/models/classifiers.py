"""The classifiers behind the defenses: name -> network, weights, licence, published accuracy.

To add one: write a loader that returns a network for [0, 1] images (normalisation inside) and `register_classifier` its
record. Names of the form `robustbench:<dataset>:<threat>:<model>` reach the whole RobustBench model zoo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.models.weights import (
    asset_path,
    asset_record,
    find_weights,
    load_checkpoint,
    sha256_of,
    strip_prefix,
    weight_folders,
)  # fmt: skip
from defenses.registry import unknown_name

if TYPE_CHECKING:  # torch takes a second to import; listing names must not pay for it
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo:
    """What is known about a classifier without loading it.

    load: () -> network, on the CPU. find: () -> the weight file (raises MissingWeights). datasets: the data sets whose
    classes it answers with. sha256: what the file must be, None where nobody states it. clean_accuracy: percent on the
    data set's test images, as `accuracy_source` says.
    """

    name: str
    datasets: tuple[str, ...]
    load: Callable[[], nn.Module] = field(repr=False)
    find: Callable[[], Path] = field(repr=False)
    source: str
    licence: str
    sha256: str | None = None
    clean_accuracy: float | None = None
    accuracy_source: str = ""

    def weights_sha256(self) -> str:
        """sha256 of the weight file on this machine, for the results' row. Raises MissingWeights."""
        return sha256_of(self.find())


CLASSIFIERS: dict[str, ClassifierInfo] = {}


def register_classifier(info: ClassifierInfo) -> ClassifierInfo:
    """Make `info` known under its name. Raises ValueError when the name is taken."""
    if info.name in CLASSIFIERS:
        raise ValueError(f"Expected a new classifier name, got {info.name!r}, which is registered. Choose another.")
    CLASSIFIERS[info.name] = info
    return info


def classifier_info(name: str) -> ClassifierInfo:
    """The record of a classifier; an unknown name raises LookupError with the nearest match and the list."""
    if name.startswith("robustbench:"):
        return _robustbench(name)
    if name not in CLASSIFIERS:
        raise unknown_name("classifier", name, [*CLASSIFIERS, "robustbench:<dataset>:<threat>:<model>"])
    return CLASSIFIERS[name]


def load_classifier(name: str, dataset: str | None = None) -> nn.Module:
    """The network `name`: images (batch, channels, height, width) in [0, 1] -> logits; eval mode, parameters frozen.

    dataset: where given, refuse (ValueError) a classifier of another data set. Raises LookupError for an unknown name,
    MissingWeights for a file that is not here, ValueError for an altered one.
    """
    info = classifier_info(name)
    if dataset is not None and dataset not in info.datasets:
        fitting = [other.name for other in CLASSIFIERS.values() if dataset in other.datasets]
        raise ValueError(
            f"Expected a classifier of {dataset}, got {name!r}, which answers for {', '.join(info.datasets)}. "
            f"For {dataset}: {', '.join(fitting) or 'none here; try robustbench:<dataset>:<threat>:<model>'}."
        )
    return info.load().eval().requires_grad_(False)


def _digits(name: str) -> ClassifierInfo:
    """A network that `bench train digits` made; its numbers are those of the training record."""
    record = asset_record("digits")["files"][f"{name}.safetensors"]

    def find() -> Path:
        return asset_path(f"digits/{name}.safetensors")

    def load() -> nn.Module:
        from defenses.models.networks.small_cnn import SmallCNN

        network = SmallCNN(**record["network"])
        network.load_state_dict(load_checkpoint(find(), record["sha256"]))
        return network

    return ClassifierInfo(
        name=name, datasets=("digits",), load=load, find=find, source="bench train digits (this package)",
        licence="Apache-2.0", sha256=record["sha256"], clean_accuracy=record["clean_accuracy"],
        accuracy_source="bench/assets/digits/record.json, 500 test images",
    )  # fmt: skip


def _cifar_resnet(depth: int, file: str, sha256: str, accuracy: float) -> ClassifierInfo:
    """A CIFAR-10 ResNet of Y. Idelbayev's "Proper ResNet implementation for CIFAR10/CIFAR100 in PyTorch"."""
    repository = "https://github.com/akamaster/pytorch_resnet_cifar10"
    source = f"{repository}/raw/master/pretrained_models/{file}"

    def find() -> Path:
        return find_weights(file, source=source, sha256=sha256)

    def load() -> nn.Module:
        from defenses.models.networks.cifar_resnet import CifarResNet
        from defenses.models.networks.normalized import Normalized

        network = CifarResNet(depth)
        network.load_state_dict(strip_prefix(load_checkpoint(find(), sha256)["state_dict"]))
        return Normalized(network)

    return ClassifierInfo(
        name=f"cifar_resnet{depth}", datasets=("cifar10",), load=load, find=find, source=source, licence="BSD-2-Clause",
        sha256=sha256, clean_accuracy=accuracy, accuracy_source=f"table of {repository}, CIFAR-10 test",
    )  # fmt: skip


def _robustbench(name: str) -> ClassifierInfo:
    """A model of RobustBench (Croce et al., NeurIPS 2021 Datasets and Benchmarks), by its name there."""
    parts = name.split(":")
    if len(parts) != 4 or not all(parts):
        raise LookupError(
            f"Expected robustbench:<dataset>:<threat>:<model>, got {name!r}, e.g. robustbench:cifar10:Linf:Standard."
        )
    _, dataset, threat, model = parts
    file = f"robustbench/{dataset}/{threat}/{model}.pt"

    def find() -> Path:
        return find_weights(file, source="RobustBench's model zoo (robustbench.utils.load_model fetches it)")

    def load() -> nn.Module:
        from defenses.models.robustbench_zoo import load_robustbench

        return load_robustbench(model, dataset, threat, _folder_of(file) / "robustbench")

    return ClassifierInfo(
        name=name, datasets=(dataset,), load=load, find=find, source="https://github.com/RobustBench/robustbench",
        licence="as the model's entry in RobustBench says",
    )  # fmt: skip


def _folder_of(file: str) -> Path:
    """The weight folder that holds `file`, else the one that downloads go to."""
    folders = weight_folders()
    return next((folder for folder in folders if (folder / file).is_file()), folders[-1])


for _name in ("digits_cnn", "digits_cnn_at"):
    register_classifier(_digits(_name))
for _arguments in (
    (20, "resnet20-12fca82f.th", "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 91.73),
    (32, "resnet32-d509ac18.th", "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 92.63),
    (44, "resnet44-014dd654.th", "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 93.10),
    (56, "resnet56-4bfd9763.th", "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 93.39),
):
    register_classifier(_cifar_resnet(*_arguments))
