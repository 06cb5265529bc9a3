"""Data sets that torchvision reads, and on request downloads: CIFAR-10, CIFAR-100; GTSRB and the two MNISTs
are downloaded alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.datasets.image_set import ImageSet


def _open(kind: str, folder: Path, split: str, download: bool) -> Any | None:
    """torchvision's data set, or None when its files are not there (torchvision says so with RuntimeError)."""
    from torchvision import datasets

    choice = {"split": split} if kind == "GTSRB" else {"train": split == "train"}
    try:
        return getattr(datasets, kind)(folder, download=download, **choice)
    except RuntimeError:
        if download:
            raise
        return None


def cifar(kind: str, folder: Path, split: str, download: bool, class_names: tuple[str, ...]) -> ImageSet | None:
    """CIFAR-10 or CIFAR-100 in torchvision's layout.

    Args:
        kind: torchvision's class, "CIFAR10" or "CIFAR100".
        folder: holds cifar-10-batches-py or cifar-100-python.
        split: "test" or "train".
        download: fetch what is not there.
        class_names: in the order of the labels.

    Returns:
        None where the files are not there.
    """
    data = _open(kind, folder, split, download)
    if data is None:
        return None
    return ImageSet(
        name=kind.lower(), labels=torch.tensor(data.targets), class_names=class_names, image_shape=(3, 32, 32),
        read=lambda indices: torch.from_numpy(data.data[indices]).permute(0, 3, 1, 2), note=f"{split}, original order",
    )  # fmt: skip


def download_gtsrb(folder: Path, split: str) -> None:
    """Fetch GTSRB into `folder`/gtsrb, in torchvision's layout."""
    _open("GTSRB", folder, split, True)


def download_mnist(name: str, folder: Path) -> None:
    """Fetch MNIST or Fashion-MNIST into `folder`, in torchvision's layout.

    Args:
        name: "mnist" or "fashion_mnist".
        folder: gets MNIST/raw or FashionMNIST/raw.
    """
    _open({"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name], folder, "test", True)
