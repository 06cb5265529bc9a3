"""Which pictures a cell looks at: orders that depend on a seed alone, on every machine and in every version."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def shuffled(count: int, seed: int) -> list[int]:
    """The indices 0..count-1 in the order of sha256("<seed>:<index>").

    A hash rather than a library's generator, whose stream may change between versions. The first n of the order are a
    sample without replacement, and a larger sample contains every smaller one.
    """
    return sorted(range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())


def subset(labels: Tensor, num_images: int, data_seed: int, balanced: bool = False) -> Tensor:
    """A sample of images without replacement.

    Args:
        labels: (N,) of all images.
        num_images: size of the sample, in 1..N.
        data_seed: which sample; a larger one of the same seed contains the smaller.
        balanced: take the classes in turn, so that their counts differ by one at most (or by as little as a class
            allows that has too few pictures).

    Returns:
        Indices (num_images,) int64.

    Raises:
        ValueError: num_images is not in 1..N.
    """
    import torch

    if not 1 <= num_images <= len(labels):
        raise ValueError(f"Expected num_images in 1..{len(labels)}, got {num_images}; this data set has no more.")
    order = shuffled(len(labels), data_seed)
    if balanced:
        order = _in_turn(order, labels.tolist())
    return torch.tensor(order[:num_images])


def _in_turn(order: list[int], labels: list[int]) -> list[int]:
    """`order` rearranged: the first picture of every class, then the second of every class, ..."""
    seen: dict[int, int] = {}
    ranks = {}
    for index in order:
        ranks[index] = seen.get(labels[index], 0)
        seen[labels[index]] = ranks[index] + 1
    return sorted(order, key=lambda index: ranks[index])  # stable: within a round, the seed's order
