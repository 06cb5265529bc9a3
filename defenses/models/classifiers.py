"""The classifiers behind the defenses: name -> network, weights, licence, published accuracy.

To add one: write @register_classifier("name") above a function that returns a network for [0, 1] images (normalisation
inside). `robustbench:<dataset>:<threat>:<model>` reaches every model of RobustBench's zoo that is one file,
`timm:<name>` those of timm, `file:<architecture>:<path>` a state dict of the user's, `hf:<folder>` a folder of Hugging
Face's layout, `<file>.py:<function>` what a function returns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from defenses.models.info import ClassifierInfo
from defenses.models.made import OWN, made_classifier
from defenses.models.shipped import Shipped, trained_network
from defenses.models.sources import SOURCES, robustbench_parts
from defenses.models.weights import find_weights, load_checkpoint, own_file, training_record
from defenses.plugins import adopt_record, welcome
from defenses.registry import PYTHON, Registry, check_name
from defenses.user_file import load_function

if TYPE_CHECKING:  # torch takes a second to import; listing names must not pay for it
    from torch import nn


F = TypeVar("F", bound=Callable[..., Any])
_IMAGENET = ("imagenet", "imagenet_sample")
CLASSIFIERS: Registry[ClassifierInfo] = Registry("classifier")


@overload
def register_classifier(info: ClassifierInfo, /) -> ClassifierInfo: ...


@overload
def register_classifier(
    info: str, /, *, datasets: tuple[str, ...] = (), title: str = "", source: str = "", licence: str = OWN
) -> Callable[[F], F]: ...


def register_classifier(
    info: ClassifierInfo | str,
    /,
    *,
    datasets: tuple[str, ...] = (),
    title: str = "",
    source: str = "",
    licence: str = OWN,
) -> Any:
    """Make a classifier known: by its record, or as @register_classifier("my_network") above a function that makes it.

    The function returns an `nn.Module` from images (batch, channels, height, width) in [0, 1] to logits, its
    normalisation inside. It is called when the network is first used, under a fixed seed.

    Args:
        info: the record, or the name.
        datasets: of a function: names of the data sets whose classes it answers with; () is any that it fits.
        title: what tables call it.
        source: where the weights come from.
        licence: of the weights.

    Raises:
        ValueError: the name is taken.
    """
    if isinstance(info, ClassifierInfo):
        return CLASSIFIERS.register(info)

    def register(function: F) -> F:
        name, facts = check_name("classifier", info), {"title": title, "source": source, "licence": licence}
        CLASSIFIERS.register(made_classifier(name, function, datasets=datasets, **facts))
        return function

    return register


def classifier_info(name: str) -> ClassifierInfo:
    """The record of a classifier; an unknown name raises LookupError with the nearest match and the list."""
    return CLASSIFIERS[name]


def load_classifier(name: str, dataset: str | None = None) -> nn.Module:
    """The network `name`, on the CPU, in eval mode, its parameters frozen.

    Args:
        name: a registered name, or one of the patterns of `CLASSIFIERS`.
        dataset: where given, a classifier of another data set is refused.

    Returns:
        Images (batch, channels, height, width) in [0, 1] -> logits (batch, classes).

    Raises:
        LookupError: an unknown name.
        MissingWeights: the file is not on this machine.
        ValueError: an altered file, or another data set.
    """
    if dataset is not None:
        check_dataset(name, dataset)
    return classifier_info(name).load().eval().requires_grad_(False)


def check_dataset(name: str, dataset: str) -> None:
    """Raise ValueError where the classifier `name` does not answer with the classes of the data set `dataset`.

    A data set that no registered classifier was trained on may be of any classes, and so may a classifier of which
    nobody says what it was trained on: whether they fit is asked before the attack.
    """
    info = classifier_info(name)
    if info.datasets and dataset not in info.datasets and _is_claimed(dataset):
        fitting = [other.name for other in CLASSIFIERS.values() if dataset in other.datasets]
        raise ValueError(
            f"Expected a classifier of {dataset}, got {name!r}, which answers for {', '.join(info.datasets)}. "
            f"For {dataset}: {', '.join(fitting) or 'none here; try robustbench:<dataset>:<threat>:<model>'}."
        )


def _is_claimed(dataset: str) -> bool:
    return any(dataset in info.datasets for info in CLASSIFIERS.values())


def _shipped(name: str, title: str, dataset: str, images: str, shipped: Shipped) -> ClassifierInfo:
    """A classifier that ships; its accuracy is that of the training record, on so many test `images`."""
    return ClassifierInfo(
        name=name, title=title, datasets=(dataset,), load=shipped.network, **shipped.facts(),
        clean_accuracy=shipped.record["clean_accuracy"],
        accuracy_source=f"defenses/models/assets/{shipped.file.rpartition('/')[0]}/record.json, {images} test images",
    )  # fmt: skip


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
        return trained_network(record.get("architecture", "block_resnet"), found, record)

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
        from defenses.models.robustbench_models import load_robustbench

        return load_robustbench(name)

    return ClassifierInfo(
        name=name, title="WRN-28-10" if model == "Standard" else f"{model}, {threat}",
        datasets=_IMAGENET if dataset == "imagenet" else (dataset,), load=load, find=find,
        source="https://github.com/RobustBench/robustbench",
        licence="as the model's entry in RobustBench says",
    )  # fmt: skip


def _timm(name: str) -> ClassifierInfo:
    from defenses.models.timm_models import timm_classifier

    return timm_classifier(name)


def _hub(name: str) -> ClassifierInfo:
    from defenses.models.hub_folder import hub_classifier

    return hub_classifier(name)


CLASSIFIERS.resolve("robustbench:", _robustbench, "robustbench:<dataset>:<threat>:<model>")
CLASSIFIERS.resolve("file:", _file, "file:<architecture>:<path>")
CLASSIFIERS.resolve("timm:", _timm, "timm:<name>")
CLASSIFIERS.resolve("hf:", _hub, "hf:<folder>")
CLASSIFIERS.resolve(PYTHON, lambda name: made_classifier(name, load_function(name)), "<file>.py:<function>")
welcome(CLASSIFIERS, "classifiers", adopt_record(CLASSIFIERS, ClassifierInfo, register_classifier))
for _name, _title in (("digits_cnn", "small CNN"), ("digits_cnn_at", "small CNN, AT")):
    _digits = Shipped(file=f"digits/{_name}.safetensors", architecture="small_cnn", recipe="digits")
    register_classifier(_shipped(_name, _title, "digits", "500", _digits))
_cifar10 = Shipped(
    file="cifar10/classifier/cifar10_at_linf.safetensors", architecture="block_resnet",
    recipe="classifier --dataset cifar10 --adversarial Linf:6/255",
)  # fmt: skip
register_classifier(_shipped("cifar10_small_at", "small ResNet, AT", "cifar10", "10,000", _cifar10))
for _name, _title, _set, _network, _images, _effort in (
    ("mnist_cnn", "small CNN", "mnist", "cnn", "10,000", "0.75"),
    ("fashion_cnn", "small CNN", "fashion_mnist", "cnn", "10,000", "1"),
    ("gtsrb_resnet20", "ResNet-20", "gtsrb", "resnet20", "4,210", "0.4"),
    ("cifar100_resnet20", "ResNet-20 of 8,000 test pictures", "cifar100_fifth", "resnet20", "2,000", "0.4"),
):
    _plain = Shipped(
        file=f"{_set}/{_set}_{_network}_plain.safetensors",
        architecture={"cnn": "small_cnn", "resnet20": "cifar_resnet"}[_network],
        recipe=f"classifier --dataset {_set} --network {_network} --effort {_effort}",
    )
    register_classifier(_shipped(_name, _title, _set, _images, _plain))
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
