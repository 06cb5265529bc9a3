"""Adversarial images that somebody else made: an .npz file with `x_adv`, `y` and `index`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from bench.datasets import ImageSet
    from bench.threat import ThreatModel

NEEDED = ("x_adv", "y", "index")
HOW = (
    "np.savez(file, x_adv=images, y=labels, index=places), images (n, channels, height, width) as floats in [0, 1] or "
    "8-bit integers, places in the test split"
)


@dataclass(frozen=True, kw_only=True)
class HandedIn:
    """Images as they were handed in.

    Attributes:
        images: (n, channels, height, width) float32 in [0, 1].
        labels: (n,) true classes.
        index: (n,) places in the test split, each once.
    """

    images: Tensor = field(repr=False)
    labels: Tensor
    index: Tensor


def read_images(path: Path, data: ImageSet) -> HandedIn:
    """Read a file and check that it speaks of a data set.

    Args:
        path: of an .npz file.
        data: the test split that its `index` means.

    Raises:
        ValueError: the file has another form, or other labels than the data set; with the first place where.
        LookupError: there is no such file.
    """
    import torch

    arrays = _load(path)
    index, labels = (_whole_numbers(arrays[name], name) for name in ("index", "y"))
    images = _as_images(arrays["x_adv"], data.image_shape)
    if not len(images) == len(index) == len(labels) or not len(images):
        raise ValueError(
            f"Expected as many images as labels and places, at least one, got {len(images)}, {len(labels)} and "
            f"{len(index)}."
        )
    outside = index[(index < 0) | (index >= len(data))]
    if len(outside):
        raise ValueError(f"Expected `index` in 0..{len(data) - 1}, the test split of {data.name}, got {outside[0]}.")
    places, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"Expected each image once, got index {places[counts > 1][0]} {counts.max()} times. Keep one of "
            "each: the image that the attack hands over."
        )
    known = np.asarray(data.labels)[index]
    wrong = np.flatnonzero(known != labels)
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"Expected the labels of {data.name}: {len(wrong)} of {len(index)} differ, the first at index "
            f"{index[first]}, {labels[first]} instead of {known[first]}. `y` are the true classes, `index` the places "
            "in the test split."
        )
    return HandedIn(images=torch.from_numpy(images), labels=torch.from_numpy(labels), index=torch.from_numpy(index))


def check_ball(given: HandedIn, data: ImageSet, threat: ThreatModel) -> None:
    """Raise ValueError where an image lies outside of the ball around its clean one."""
    import torch

    distance = torch.cat(
        [
            threat.distance(given.images[start : start + 64], data.images(given.index[start : start + 64]))
            for start in range(0, len(given.index), 64)
        ]
    )
    from bench.threat import TOLERANCE

    far = distance > threat.epsilon * (1 + TOLERANCE) + 1e-6
    if far.any():
        first = int(far.nonzero()[0])
        raise ValueError(
            f"Expected images within {threat.norm} {threat.epsilon:.6g} of the clean ones: {int(far.sum())} of "
            f"{len(far)} are not, the first at index {int(given.index[first])}, {float(distance[first]):.6g} away. "
            "Nothing is projected here: give the --norm and --epsilon that they were made for, or make them again."
        )


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    if not path.is_file():
        raise LookupError(f"There is no file {path}. Make it with {HOW}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("it holds one array")
            missing = [name for name in NEEDED if name not in file.files]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(file.files) or 'nothing'}")
            return {name: file[name] for name in NEEDED}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"Expected an .npz file in {path}: {error}. Make it with {HOW}.") from error


def _whole_numbers(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"Expected `{name}` as n whole numbers, got {values.dtype} of shape {values.shape}.")
    return values.astype(np.int64)


def _as_images(values: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """float32 in [0, 1], channels first."""
    channels, height, width = shape
    if values.ndim == 4 and values.shape[1:] == (height, width, channels) != shape:
        values = values.transpose(0, 3, 1, 2)
    if values.ndim == 3 and channels == 1:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1:] != shape:
        raise ValueError(f"Expected `x_adv` of shape (n, {channels}, {height}, {width}), got {values.shape}.")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values.astype(np.float32) / 255)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"Expected `x_adv` as floats in [0, 1] or 8-bit integers (uint8), got {values.dtype}.")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite(values).all() or low < 0 or high > 1:
        raise ValueError(
            f"Expected `x_adv` in [0, 1], got values in [{low:.4g}, {high:.4g}]. Divide 8-bit pictures by 255."
        )
    return np.ascontiguousarray(values.astype(np.float32))
