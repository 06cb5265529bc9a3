"""Arrays of pictures and labels, as people store them, as a data set; what cannot be told apart is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.datasets.image_set import ImageSet


def image_set_of(name: str, x: Any, y: Any, *, classes: Any = None, note: str = "") -> ImageSet:
    """A data set of arrays.

    Args:
        name: of the data set, for messages.
        x: pictures (n, channels, height, width), (n, height, width, channels) or (n, height, width) of 1 or 3 channels;
            uint8, or floats in [0, 1].
        y: labels (n,) or (n, 1), whole numbers from 0.
        classes: their number or their names; None is the largest label and one.
        note: what a reader of the numbers must know.

    Raises:
        ValueError: something has another form; the message says what was expected, found, and what to do.
    """
    import torch

    pictures, turned = _channels_first(_check_values(_array(x, name, "pictures"), name), name)
    labels = _labels(_array(y, name, "labels"), len(pictures), name)
    names = _class_names(labels, classes, name)
    kept = torch.from_numpy(np.ascontiguousarray(pictures))
    return ImageSet(
        name=name,
        labels=torch.from_numpy(labels),
        class_names=names,
        image_shape=(kept.shape[1], kept.shape[2], kept.shape[3]),
        read=lambda rows: kept[rows],
        note="; ".join(filter(None, (note, turned))),
    )


def _array(value: Any, name: str, what: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected {what} of {name} as one array, found {type(value).__name__} ({error}).") from error
    if found.dtype == object or found.dtype.kind in "USV":
        raise ValueError(
            f"Expected {what} of {name} as an array of numbers, found {found.dtype} {found.shape}. Stack pictures of "
            "one size (numpy.stack), and number the classes from 0."
        )
    return found


def _check_values(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        eight = x.size and x.dtype.kind in "iu" and x.min() >= 0 and x.max() <= 255
        remedy = "x.astype('uint8')" if eight else "a scale to floats in [0, 1]"
        raise ValueError(f"Expected pictures of {name} as uint8 or floats in [0, 1], found {x.dtype}. Save {remedy}.")
    if not x.size:
        raise ValueError(f"Expected pictures in {name}, found an empty array {x.shape}.")
    if x.dtype.kind == "f" and not (x.min() >= 0 and x.max() <= 1):  # NaN compares false
        low, high = float(x.min()), float(x.max())
        remedy = (
            "x / 255" if low >= 0 else "(x + 1) / 2" if low >= -1 and high <= 1 else "pictures before normalisation"
        )
        raise ValueError(
            f"Expected floats of {name} in [0, 1], found [{low:.3g}, {high:.3g}]. Save {remedy}; a classifier's "
            "normalisation belongs inside it."
        )
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def _channels_first(x: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """The pictures (n, channels, height, width), and what was done to make them so."""
    if x.ndim == 3:
        return x[:, None], ""
    wanted = "(n, channels, height, width) or (n, height, width, channels) of 1 or 3 channels"
    if x.ndim != 4:
        raise ValueError(f"Expected pictures of {name} as {wanted}, found {x.shape}. Reshape them.")
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first and last:
        raise ValueError(
            f"Expected pictures of {name} as {wanted}, found {x.shape}: either could be the channels. Save larger ones."
        )
    if not first and not last:
        alpha = " Leave the alpha channel out." if 4 in (x.shape[1], x.shape[3]) else ""
        raise ValueError(f"Expected pictures of {name} as {wanted}, found {x.shape}.{alpha}")
    return (x, "") if first else (x.transpose(0, 3, 1, 2), "channels came last in the file")


def _labels(y: np.ndarray, count: int, name: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and len(y) == count:
        raise ValueError(f"Expected labels of {name} as (n,), found {y.shape}: one-hot rows? Save y.argmax(1).")
    if y.shape != (count,):
        raise ValueError(f"Expected {count} labels of {name}, one a picture, found {y.shape}.")
    if y.dtype.kind not in "iu":
        raise ValueError(f"Expected labels of {name} as whole numbers, found {y.dtype}. Save y.astype('int64').")
    if y.min() < 0:
        raise ValueError(f"Expected labels of {name} from 0, found {y.min()}. Leave unlabelled pictures out.")
    return y.astype(np.int64)


def _class_names(labels: np.ndarray, classes: Any, name: str) -> tuple[str, ...]:
    low, high = int(labels.min()), int(labels.max())
    if classes is None:
        if low > 0:
            raise ValueError(
                f"Expected labels of {name} from 0, found {low}..{high}. Subtract {low} if they count from there; if "
                f"the first classes have no picture here, say how many there are (classes={high + 1})."
            )
        return tuple(map(str, range(high + 1)))
    found = np.asarray(classes)
    names = tuple(map(str, range(int(found)))) if found.ndim == 0 and found.dtype.kind in "iu" else ()
    names = tuple(map(str, found.tolist())) if found.ndim == 1 else names
    if not names:
        raise ValueError(f"Expected classes of {name} as a number or a list of names, found {classes!r}.")
    if high >= len(names):
        raise ValueError(
            f"Expected labels of {name} in 0..{len(names) - 1}, its classes, found {low}..{high}."
            + (" Subtract 1: they count from 1." if low == 1 and high == len(names) else "")
        )
    return names
