"""The embedded default: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from bench.datasets.image_set import ImageSet
from bench.datasets.sampling import shuffled

SPLIT_SEED = 0
TEST_IMAGES = 500


def load_digits(split: str) -> ImageSet:
    """One part of this project's split, which is in the order of `shuffled(1797, SPLIT_SEED)`.

    Args:
        split: "test", 500 images, or "train", the other 1,297.
    """
    import torch

    data = _read()
    order = shuffled(len(data.target), SPLIT_SEED)
    rows = order[:TEST_IMAGES] if split == "test" else order[TEST_IMAGES:]
    images = torch.from_numpy(data.images[rows]).float().unsqueeze(1) / 16
    return ImageSet(
        name="digits", labels=torch.from_numpy(data.target[rows]).long(), class_names=tuple("0123456789"),
        image_shape=(1, 8, 8), read=lambda indices: images[indices], note=f"{split} split, seed {SPLIT_SEED}",
    )  # fmt: skip


@cache
def _read() -> Any:
    """Scikit-learn's arrays, read from their text file once: every cell asks for pictures that are not its own."""
    from sklearn.datasets import load_digits as read

    return read()
