"""Pictures of the caller's as a data set: arrays, tensors, a torch data set or a loader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from bench.datasets import DatasetInfo, ImageSet, check_range, shuffled

GIVEN = "given:"  # how the names of the caller's own parts begin
FORMS = "an array or a tensor (n, channels, height, width), a torch data set or loader, or the name of a data set"


class _GivenSet(ImageSet):
    def fingerprint(self) -> str:
        """Of every picture that was given; picture 0 may be none of them."""
        return self.name.removeprefix(GIVEN)


class GivenPictures:
    """The pictures that were given, as far as they are measured.

    Attributes:
        labels: (N,) int64 of all pictures; -1 for those of a data set that were not read.
        pictures: place -> (channels, height, width), float32 in [0, 1].
        sha256: of pictures and labels.
        name: what a cell calls them.
    """

    def __init__(self, labels: Tensor, pictures: dict[int, Tensor]) -> None:
        self.labels, self.pictures = labels, pictures
        digest = hashlib.sha256(labels.numpy().tobytes())
        for place in sorted(pictures):
            digest.update(f"{place} {tuple(pictures[place].shape)}".encode() + pictures[place].numpy().tobytes())
        self.sha256 = digest.hexdigest()
        self.name = f"{GIVEN}{self.sha256[:12]}"

    def sample(self, count: int) -> Tensor:
        """The first `count` pictures, for a trial."""
        return torch.stack(list(islice(self.pictures.values(), count)))

    def dataset(self, classes: int) -> DatasetInfo:
        """Their record, for a classifier of so many classes.

        Raises:
            ValueError: labels that are no class.
        """
        known = self.labels[list(self.pictures)]
        if int(known.min()) < 0 or int(known.max()) >= classes:
            raise ValueError(
                f"Expected labels in 0..{classes - 1}, the classes of the classifier, found "
                f"{int(known.min())}..{int(known.max())}. Give the labels that it was trained with."
            )
        channels, height, width = next(iter(self.pictures.values())).shape
        shape = (channels, height, width)
        images = _GivenSet(
            name=self.name,
            labels=self.labels,
            class_names=tuple(map(str, range(classes))),
            image_shape=shape,
            read=lambda rows: torch.stack([self.pictures[row] for row in rows]),
            note=f"given in Python, sha256 {self.sha256}",
        )
        return DatasetInfo(
            name=self.name, title="own pictures", classes=classes, image_shape=shape, source="given in Python",
            place="nothing (they were given in Python)", licence="the user's own", load=lambda *_: images,
        )  # fmt: skip


def take_pictures(x: Any, y: Any, num_images: int | None, data_seed: int) -> GivenPictures:
    """Read the pictures that are to be measured.

    Args:
        x: see FORMS, names excepted.
        y: (n,) labels of arrays; None for data sets and loaders, which hold theirs.
        num_images: how many; None is all of them. Of a loader the first ones, else a sample.
        data_seed: which sample.

    Raises:
        ValueError: something has another form; the message says what was expected.
    """
    if isinstance(x, (DataLoader, IterableDataset)):
        _refuse_labels(y)
        pairs = _batches(x) if isinstance(x, DataLoader) else iter(x)
        return _of_pairs(enumerate(islice(pairs, num_images)), None)
    if isinstance(x, Dataset):
        _refuse_labels(y)
        total = len(x)  # type: ignore[arg-type]
        return _of_pairs(((place, x[place]) for place in _places(total, num_images, data_seed)), total)
    images, labels = _as_tensor(x, "pictures"), _as_labels(y)
    if images.ndim != 4 or len(images) != len(labels):
        raise ValueError(
            f"Expected pictures (n, channels, height, width) and n labels, got {tuple(images.shape)} and "
            f"{len(labels)} labels."
        )
    places = _places(len(labels), num_images, data_seed)
    return GivenPictures(labels, {place: _as_picture(images[place], place) for place in places})


def _places(total: int, num_images: int | None, data_seed: int) -> list[int]:
    wanted = total if num_images is None else num_images
    if not 1 <= wanted <= total:
        raise ValueError(f"Expected num_images in 1..{total}, the pictures that were given, got {wanted}.")
    return shuffled(total, data_seed)[:wanted]  # as `bench.datasets.subset` chooses them


def _of_pairs(pairs: Iterable[tuple[int, Any]], total: int | None) -> GivenPictures:
    pictures: dict[int, Tensor] = {}
    found: dict[int, int] = {}
    for place, pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) < 2:
            raise ValueError(f"Expected a data set of pairs (picture, label), got {type(pair).__name__} at {place}.")
        pictures[place] = _as_picture(pair[0], place)
        found[place] = int(_as_labels([pair[1]])[0])
    if not found:
        raise ValueError("Expected at least one picture, got an empty data set.")
    labels = torch.full((total or len(found),), -1, dtype=torch.int64)
    labels[list(found)] = torch.tensor(list(found.values()))
    return GivenPictures(labels, pictures)


def _batches(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(f"Expected a loader of batches (pictures, labels), got a batch of {type(batch).__name__}.")
        yield from zip(batch[0], batch[1], strict=True)


def _as_picture(given: Any, place: int) -> Tensor:
    if type(given).__module__.startswith("PIL."):
        given = np.asarray(given)
        given = given[None] if given.ndim == 2 else given.transpose(2, 0, 1)
    picture = _as_tensor(given, f"picture {place}")
    if picture.ndim != 3 or picture.shape[0] > 4 >= picture.shape[-1]:
        raise ValueError(
            f"Expected pictures (channels, height, width), got {tuple(picture.shape)} at {place}. "
            "Channels come first: x.transpose(0, 3, 1, 2) turns a batch (n, height, width, channels) of arrays."
        )
    if picture.dtype == torch.uint8:
        picture = picture.float() / 255
    if not picture.is_floating_point():
        raise ValueError(f"Expected pictures of floats in [0, 1] or of 8-bit integers, got {picture.dtype}.")
    return check_range(picture.float()[None], [place], "your")[0].contiguous()


def _as_labels(given: Any) -> Tensor:
    if given is None:
        raise ValueError(f"Expected labels y (n,) beside the pictures, got none. Or give {FORMS}.")
    labels = _as_tensor(given, "labels")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"Expected labels (n,) of whole numbers, got {labels.dtype} {tuple(labels.shape)}. "
            "y.argmax(1) makes them of one-hot rows."
        )
    return labels.long()


def _as_tensor(given: Any, what: str) -> Tensor:
    """On the CPU, of its own memory, without a graph."""
    if isinstance(given, Tensor):
        return given.detach().cpu().clone()
    try:
        return torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected {what} as numbers, got {type(given).__name__} ({error}). Give {FORMS}.") from error


def _refuse_labels(y: Any) -> None:
    if y is not None:
        raise ValueError("Expected no y beside a data set or loader, whose pairs hold the labels. Leave it out.")
