"""`npz:PATH`: arrays of pictures and labels in a file of numpy.savez."""

from __future__ import annotations

from pathlib import Path

from bench.datasets.image_set import ImageSet, MissingData


def read_npz(path: Path, split: str) -> ImageSet:
    """The arrays `x` and `y` of a .npz file, or `x_test` and `y_test`, `x_train` and `y_train`; and `classes`, if any.

    Raises:
        ValueError: it is none, or holds other arrays.
        MissingData: it has no such split.
    """
    import numpy as np

    from bench.datasets.arrays import image_set_of

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except Exception as error:  # whatever zip, numpy and pickle say
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"Expected arrays of numpy.savez in {path}, could not read it ({said}). Write numpy.savez(path, x=x, y=y)."
        ) from error
    pairs = [(f"x_{split}", f"y_{split}"), *([("x", "y")] if split == "test" else [])]
    chosen = next((pair for pair in pairs if set(pair) <= found.keys()), None)
    if chosen is None and split != "test":
        raise MissingData(f"The data set {path} has no arrays {' and '.join(pairs[0])}.")
    if chosen is None:
        there = ", ".join(f"{key} {value.shape}" for key, value in found.items()) or "nothing"
        raise ValueError(
            f"Expected the arrays x and y in {path}, found {there}. Write numpy.savez(path, x=pictures, y=labels)."
        )
    x, y = (found[key] for key in chosen)
    return image_set_of(str(path), x, y, classes=found.get("classes"))
