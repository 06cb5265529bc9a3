"""The classifiers behind the defenses: name -> network, weights, licence, published accuracy.

To add one: write a loader that returns a network for [0, 1] images (normalisation inside) and `register_classifier` its
record. `robustbench:<dataset>:<threat>:<model>` reaches every model of RobustBench's zoo that is one file,
`file:<architecture>:<path>` a state dict of the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.models.sources import SOURCES, robustbench_parts, robustbench_source
from defenses.models.weights import (
    asset_path,
    asset_record,
    find_weights,
    load_checkpoint,
    own_file,
    sha256_of,
    training_record,
    weight_folders,
)
from defenses.registry import unknown_name

if TYPE_CHECKING:  # torch takes a second to import; listing names must not pay for it
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo:
    """What is known about a classifier without loading it.

    Attributes:
        name: what a cell calls it.
        datasets: the data sets whose classes it answers with.
        load: () -> network for [0, 1] images, on the CPU.
        find: () -> the weight file; raises MissingWeights.
        source: where the weights come from.
        licence: of the weights.
        sha256: what the file must be, 64 hex digits; None where nobody states it.
        clean_accuracy: percent of the data set's test images; None where unknown.
        accuracy_source: who measured that, and on what.
        title: what tables call it; its name where nothing is given.
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
    title: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name)

    def weights_sha256(self) -> str:
        """sha256 of the weight file on this machine, for the results' row. Raises MissingWeights."""
        return sha256_of(self.find())


_IMAGENET = ("imagenet", "imagenet_sample")
PATTERNS = ("robustbench:<dataset>:<threat>:<model>", "file:<architecture>:<path>")
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
    if name.startswith("file:"):
        return _file(name)
    if name not in CLASSIFIERS:
        raise unknown_name("classifier", name, [*CLASSIFIERS, *PATTERNS])
    return CLASSIFIERS[name]


def load_classifier(name: str, dataset: str | None = None) -> nn.Module:
    """The network `name`: images (batch, channels, height, width) in [0, 1] -> logits; eval mode, parameters frozen.

    dataset: where given, refuse (ValueError) a classifier of another data set. Raises LookupError for an unknown name,
    MissingWeights for a file that is not here, ValueError for an altered one.
    """
    if dataset is not None:
        check_dataset(name, dataset)
    return classifier_info(name).load().eval().requires_grad_(False)


def check_dataset(name: str, dataset: str) -> None:
    """Raises ValueError where the classifier `name` does not answer with the classes of `dataset`."""
    info = classifier_info(name)
    if dataset not in info.datasets:
        fitting = [other.name for other in CLASSIFIERS.values() if dataset in other.datasets]
        raise ValueError(
            f"Expected a classifier of {dataset}, got {name!r}, which answers for {', '.join(info.datasets)}. "
            f"For {dataset}: {', '.join(fitting) or 'none here; try robustbench:<dataset>:<threat>:<model>'}."
        )


def _shipped(
    name: str,
    title: str,
    file: str,
    dataset: str,
    build: Callable[[], Callable[..., nn.Module]],
    recipe: str,
    images: str,
) -> ClassifierInfo:
    """A network that `bench train <recipe>` made; its numbers are those of the training record.

    file: in defenses/models/assets. build: () -> what makes the network from the record's arguments. images: tested on.
    """
    folder, _, stem = file.rpartition("/")
    record = asset_record(folder)["files"][stem]

    def load() -> nn.Module:
        network = build()(**record["network"])
        network.load_state_dict(load_checkpoint(asset_path(file), record["sha256"]))
        return network

    return ClassifierInfo(
        name=name, title=title, datasets=(dataset,), load=load, find=lambda: asset_path(file), licence="Apache-2.0",
        source=f"bench train {recipe} (this package)", sha256=record["sha256"], clean_accuracy=record["clean_accuracy"],
        accuracy_source=f"defenses/models/assets/{folder}/record.json, {images} test images",
    )  # fmt: skip


def _small_cnn() -> Callable[..., nn.Module]:
    from defenses.models.networks.small_cnn import SmallCNN

    return SmallCNN


def _block_resnet() -> Callable[..., nn.Module]:
    from defenses.models.networks.block_resnet import block_resnet

    return block_resnet


def _public(
    name: str,
    title: str,
    datasets: tuple[str, ...],
    licence: str,
    accuracy: float | None = None,
    accuracy_source: str = "",
) -> ClassifierInfo:
    """A classifier whose file is in `SOURCES` and whose architecture is in `classifier_zoo`."""
    source = SOURCES[name]

    def load() -> nn.Module:
        from defenses.models.checkpoints import read
        from defenses.models.classifier_zoo import with_weights

        return with_weights(name, read(source))

    return ClassifierInfo(
        name=name, title=title, datasets=datasets, load=load, find=source.find, source=source.where, licence=licence,
        sha256=source.sha256 if len(source.sha256) == 64 else None, clean_accuracy=accuracy,
        accuracy_source=accuracy_source,
    )  # fmt: skip


def _file(name: str) -> ClassifierInfo:
    """file:<architecture>:<path>: a public classifier's architecture and normalisation, with weights of the user's;
    file:blocks:<path>: what `bench train classifier` wrote."""
    kind, _, path = name.removeprefix("file:").partition(":")
    if kind == "blocks" and path:
        return _trained(name, path)
    kinds = {known: info.datasets for known, info in CLASSIFIERS.items() if known in SOURCES}
    if kind not in kinds or not path:
        known = ", ".join((*kinds, "blocks"))
        raise LookupError(f"Expected file:<architecture>:<path>, architecture one of {known}, got {name!r}.")

    def load() -> nn.Module:
        from defenses.models.checkpoints import bare_state
        from defenses.models.classifier_zoo import with_weights

        return with_weights(kind, bare_state(load_checkpoint(own_file(path))))

    return ClassifierInfo(
        name=name,
        title=Path(path).stem,
        datasets=kinds[kind],
        load=load,
        find=lambda: own_file(path),
        source=path,
        licence="the user's own",
    )


def _trained(name: str, path: str) -> ClassifierInfo:
    """A network of `bench train classifier`; the record beside it says its size, data set and accuracy."""
    found = own_file(path)
    record = training_record(found, "classifier")

    def load() -> nn.Module:
        network = _block_resnet()(**record["network"])
        network.load_state_dict(load_checkpoint(found, record["sha256"]))
        return network

    return ClassifierInfo(
        name=name, title=Path(path).stem, datasets=(record["dataset"],), load=load, find=lambda: own_file(path),
        source=path, licence="the user's own", sha256=record["sha256"],
        clean_accuracy=record["clean_accuracy"], accuracy_source="the record.json beside it",
    )  # fmt: skip


def _robustbench(name: str) -> ClassifierInfo:
    """A model of RobustBench (Croce et al., NeurIPS 2021 Datasets and Benchmarks), by its name there."""
    _, dataset, threat, model = robustbench_parts(name)
    file = f"robustbench/{dataset}/{threat}/{model}.pt"

    def find() -> Path:
        return find_weights(file, source="RobustBench's model zoo (robustbench.utils.load_model fetches it)")

    def load() -> nn.Module:
        from defenses.models.robustbench_zoo import load_robustbench

        folder = _folder_of(file)
        network = load_robustbench(model, dataset, threat, folder / "robustbench")
        robustbench_source(name).check(folder / file)
        return network

    return ClassifierInfo(
        name=name, title="WRN-28-10" if model == "Standard" else f"{model}, {threat}",
        datasets=_IMAGENET if dataset == "imagenet" else (dataset,), load=load, find=find,
        source="https://github.com/RobustBench/robustbench",
        licence="as the model's entry in RobustBench says",
    )  # fmt: skip


def _folder_of(file: str) -> Path:
    """The weight folder that holds `file`, else the one that downloads go to."""
    folders = weight_folders()
    return next((folder for folder in folders if (folder / file).is_file()), folders[-1])


for _name, _title in (("digits_cnn", "small CNN"), ("digits_cnn_at", "small CNN, AT")):
    register_classifier(_shipped(_name, _title, f"digits/{_name}.safetensors", "digits", _small_cnn, "digits", "500"))
register_classifier(
    _shipped(
        "cifar10_small_at", "small ResNet, AT",
        "cifar10/classifier/cifar10_at_linf.safetensors", "cifar10", _block_resnet,
        "classifier --dataset cifar10 --adversarial Linf:6/255", "10,000",
    )
)  # fmt: skip
_TABLE = "table of https://github.com/akamaster/pytorch_resnet_cifar10, CIFAR-10 test"
for _depth, _accuracy in ((20, 91.73), (32, 92.63), (44, 93.10), (56, 93.39)):
    register_classifier(
        _public(f"cifar_resnet{_depth}", f"ResNet-{_depth}", ("cifar10",), "BSD-2-Clause", _accuracy, _TABLE)
    )
_DIFFPURE = "NVIDIA, non-commercial (DiffPure)"
register_classifier(_public("diffpure_resnet50", "ResNet-50", ("cifar10",), _DIFFPURE))
register_classifier(_public("diffpure_wrn70_16_dropout", "WRN-70-16", ("cifar10",), _DIFFPURE))
register_classifier(_public("gtsrb_resnet18", "ResNet-18", ("gtsrb",), "none stated"))
register_classifier(_public("cifar100_wrn28_10", "WRN-28-10", ("cifar100",), "none stated"))
_V1 = "torchvision's record of IMAGENET1K_V1, ImageNet validation"
register_classifier(_public("imagenet_resnet18", "ResNet-18", _IMAGENET, "BSD-3-Clause (torchvision)", 69.758, _V1))
register_classifier(_public("imagenet_resnet50", "ResNet-50", _IMAGENET, "BSD-3-Clause (torchvision)", 76.13, _V1))
register_classifier(_public("imagenet_wrn50_2", "WRN-50-2", _IMAGENET, "BSD-3-Clause (torchvision)", 78.468, _V1))
register_classifier(_public("imagenet_deit_s", "DeiT-S", _IMAGENET, "Apache-2.0 (DeiT)"))
register_classifier(_public("imagenet_xcit_s24", "XCiT-S24", _IMAGENET, "Apache-2.0 (XCiT)"))
