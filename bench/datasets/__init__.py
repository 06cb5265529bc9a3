"""The data sets, by name: real pictures in [0, 1], only those asked for are decoded.

data = load_dataset("digits")
rows = subset(data.labels, num_images=64, data_seed=0, balanced=True)
images, labels = data.images(rows), data.labels[rows]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from bench.datasets.digits import load_digits
from bench.datasets.image_set import ImageSet, MissingData, check_range
from bench.datasets.names import CIFAR10, CIFAR100, GTSRB
from bench.datasets.sampling import shuffled, subset
from defenses.models.weights import cache_folder
from defenses.registry import unknown_name

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "ImageSet",
    "MissingData",
    "Split",
    "check_range",
    "data_folder",
    "dataset_info",
    "load_dataset",
    "shuffled",
    "subset",
]

Split = Literal["test", "train"]
Loader = Callable[[Path, str, bool], ImageSet | None]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known about a data set without opening it.

    Attributes:
        name: what a cell calls it.
        title: what tables call it.
        classes: number of classes.
        image_shape: (channels, height, width) of its pictures.
        source: where it comes from.
        place: its files, relative to the data folder.
        licence: of its pictures.
        load: (folder, split, download) -> the pictures, None where they are not there.
        downloads: whether torchvision can fetch it.
    """

    name: str
    title: str
    classes: int
    image_shape: tuple[int, int, int]
    source: str
    place: str
    licence: str
    load: Loader = field(repr=False)
    downloads: bool = False


def _cifar(kind: str, class_names: tuple[str, ...], folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.tiles import cifar10_tiles, cifar100_tiles
    from bench.datasets.torchvision_sets import cifar

    tiles = cifar10_tiles if kind == "CIFAR10" else cifar100_tiles
    return cifar(kind, folder, split, False, class_names) or tiles(folder, split, class_names) or (
        cifar(kind, folder, split, True, class_names) if download else None
    )  # fmt: skip


def _gtsrb(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.tiles import gtsrb_tiles
    from bench.datasets.torchvision_sets import gtsrb

    return gtsrb(folder, split, False, GTSRB) or gtsrb_tiles(folder, split, GTSRB) or (
        gtsrb(folder, split, True, GTSRB) if download else None
    )  # fmt: skip


def _imagenet(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.imagenet import load_imagenet

    return load_imagenet(folder) if split == "test" else None


def _imagenet_sample(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.imagenet import load_imagenet_sample

    return load_imagenet_sample(folder) if split == "test" else None


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            title="digits",
            classes=10,
            image_shape=(1, 8, 8),
            source="scikit-learn's bundled digits (UCI, 1998)",
            place="nothing (it ships with scikit-learn)",
            licence="CC BY 4.0",
            load=lambda folder, split, download: load_digits(split),
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10",
            classes=10,
            image_shape=(3, 32, 32),
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            place="cifar-10-batches-py/ (or tiles: cifar10/test.webp and cifar10/labels.npz)",
            licence="none stated",
            load=partial(_cifar, "CIFAR10", CIFAR10),
            downloads=True,
        ),
        DatasetInfo(
            name="cifar100",
            title="CIFAR-100",
            classes=100,
            image_shape=(3, 32, 32),
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            place="cifar-100-python/ (or tiles, test alone: cifar100/test_class_order.webp and its _labels.npy)",
            licence="none stated",
            load=partial(_cifar, "CIFAR100", CIFAR100),
            downloads=True,
        ),
        DatasetInfo(
            name="gtsrb",
            title="GTSRB",
            classes=43,
            image_shape=(3, 32, 32),
            source="https://benchmark.ini.rub.de/gtsrb_news.html",
            place="gtsrb/ as torchvision lays it out (or tiles: gtsrb/test_subset_32.webp and its _labels.csv)",
            licence="none stated",
            load=_gtsrb,
            downloads=True,
        ),
        DatasetInfo(
            name="imagenet",
            title="ImageNet",
            classes=1000,
            image_shape=(3, 224, 224),
            source="https://image-net.org (registration; ILSVRC2012)",
            place="imagenet/val/<wnid>/*.JPEG, or imagenet/ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz",
            licence="ImageNet terms of access, research only",
            load=_imagenet,
        ),
        DatasetInfo(
            name="imagenet_sample",
            title="ImageNet sample",
            classes=1000,
            image_shape=(3, 224, 224),
            source="https://github.com/EliSchwartz/imagenet-sample-images, every 10th picture with an index.csv",
            place="imagenet_sample/imagenet_sample_100.tar",
            licence="ImageNet terms of access, research only",
            load=_imagenet_sample,
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """The record of a data set; an unknown name raises LookupError with the nearest match and the list."""
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


def load_dataset(
    name: str, *, data_dir: Path | str | None = None, download: bool = False, split: Split = "test"
) -> ImageSet:
    """The pictures of `name` with their labels.

    data_dir: folder of the data sets; default $BENCH_DATA_DIR, else `data` in the cache folder. download: fetch through
    torchvision what is not there. Raises LookupError for an unknown name and MissingData when the files are not there.
    """
    info, folder = dataset_info(name), data_folder(data_dir)
    found = info.load(folder, split, download)
    if found is None:
        remedy = " or ask for the download (--download)" if info.downloads else ""
        raise MissingData(
            f"Expected the {split} pictures of {name} in {folder}, found none. Put there {info.place}; "
            f"source: {info.source}{remedy}. BENCH_DATA_DIR names another folder, or --data-dir where a command has it."
        )
    return found


def data_folder(data_dir: Path | str | None = None) -> Path:
    """The folder of the data sets: `data_dir`, else $BENCH_DATA_DIR, else `data` in the cache folder."""
    return Path(data_dir or os.environ.get("BENCH_DATA_DIR") or cache_folder() / "data").expanduser()
