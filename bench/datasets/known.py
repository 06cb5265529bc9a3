"""The data sets that ship with the package or that it knows where to find."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.datasets.digits import load_digits
from bench.datasets.image_set import ImageSet
from bench.datasets.info import DatasetInfo
from bench.datasets.names import CIFAR10, CIFAR100, FASHION_MNIST, GTSRB, MNIST


def _cifar(kind: str, class_names: tuple[str, ...], folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.cifar_pickles import cifar_pickles
    from bench.datasets.tiles import cifar10_tiles, cifar100_tiles
    from bench.datasets.torchvision_sets import cifar

    tiles = cifar10_tiles if kind == "CIFAR10" else cifar100_tiles
    found = cifar(kind, folder, split, False, class_names) or tiles(folder, split, class_names)
    if found is None and download:
        return cifar(kind, folder, split, True, class_names)
    return found or cifar_pickles(kind, folder, split, class_names)


def _cifar100_fifth(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.fifth import take_fifth

    whole = _cifar("CIFAR100", CIFAR100, folder, "test", download)
    return None if whole is None else take_fifth(whole, "cifar100_fifth", split)


def _mnist(name: str, class_names: tuple[str, ...], folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.idx import idx_set
    from bench.datasets.torchvision_sets import download_mnist

    found = idx_set(name, folder, split, class_names)
    if found is None and download:
        download_mnist(name, folder)
        return idx_set(name, folder, split, class_names)
    return found


def _gtsrb(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.gtsrb import gtsrb
    from bench.datasets.tiles import gtsrb_tiles
    from bench.datasets.torchvision_sets import download_gtsrb

    found = gtsrb(folder, split, GTSRB) or gtsrb_tiles(folder, split, GTSRB)
    if found is None and download:
        download_gtsrb(folder, split)
        return gtsrb(folder, split, GTSRB)
    return found


def _imagenet(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.imagenet import load_imagenet

    return load_imagenet(folder) if split == "test" else None


def _imagenet_sample(folder: Path, split: str, download: bool) -> ImageSet | None:
    from bench.datasets.imagenet import load_imagenet_sample

    return load_imagenet_sample(folder) if split == "test" else None


KNOWN = (
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
        name="cifar100_fifth",
        title="CIFAR-100, a fifth of its test split",
        classes=100,
        image_shape=(3, 32, 32),
        source="https://www.cs.toronto.edu/~kriz/cifar.html; every fifth test picture of each class is tested on, the "
        "other four are trained on: comparable with no published number",
        place="cifar-100-python/ (or tiles: cifar100/test_class_order.webp and its _labels.npy)",
        licence="none stated",
        load=_cifar100_fifth,
        downloads=True,
    ),
    DatasetInfo(
        name="mnist",
        title="MNIST",
        classes=10,
        image_shape=(1, 28, 28),
        source="http://yann.lecun.com/exdb/mnist/ (torchvision fetches it from a mirror)",
        place="MNIST/raw/ as torchvision lays it out (or mnist/t10k-images-idx3-ubyte and its labels, plain, .gz or "
        ".xz)",
        licence="none stated",
        load=partial(_mnist, "mnist", MNIST),
        downloads=True,
    ),
    DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST",
        classes=10,
        image_shape=(1, 28, 28),
        source="https://github.com/zalandoresearch/fashion-mnist",
        place="FashionMNIST/raw/ as torchvision lays it out (or fashion_mnist/t10k-images-idx3-ubyte and its labels, "
        "plain, .gz or .xz)",
        licence="MIT",
        load=partial(_mnist, "fashion_mnist", FASHION_MNIST),
        downloads=True,
    ),
    DatasetInfo(
        name="gtsrb",
        title="GTSRB",
        classes=43,
        image_shape=(3, 32, 32),
        source="https://benchmark.ini.rub.de/gtsrb_news.html",
        place="gtsrb/ as torchvision, the official archives or Kaggle's copy lay it out (or tiles: "
        "gtsrb/test_subset_32.webp and its _labels.csv)",
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
