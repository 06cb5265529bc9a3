"""ImageSet: labelled pictures, read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # listing the data sets must not pay for importing torch
    from torch import Tensor

CHUNK = 64  # pictures decoded at once for the fingerprint


class MissingData(LookupError):
    """A data set is not on this machine. The message says which file goes where and where it comes from.

    Class attributes:
        remedy: what to do, for the command line.
    """

    remedy = "`bench doctor` says what is missing and where it goes; `--download` gets what torchvision can download."


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Labelled pictures of one size.

    Attributes:
        name: of the data set.
        labels: (N,) int64.
        class_names: in the order of the labels.
        image_shape: (channels, height, width).
        read: indices -> pictures (n, channels, height, width), float in [0, 1] or uint8.
        note: what a reader of the numbers must know (split, part of the official set).
    """

    name: str
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    image_shape: tuple[int, int, int]
    read: Callable[[list[int]], Tensor] = field(repr=False)
    note: str = ""
    _marks: dict[tuple[int, ...], str] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """Twelve hex digits of labels, first picture and note, which tell one copy of the data set from another:
        another
        order, part or resizing has others."""
        digest = hashlib.sha256(self.note.encode())
        for tensor in (self.labels, self.images([0])):
            digest.update(tensor.contiguous().numpy())  # type: ignore[arg-type]
        return digest.hexdigest()[:12]

    def fingerprint_of(self, indices: Sequence[int] | Tensor) -> str:
        """Twelve hex digits of every pixel of some pictures.

        Args:
            indices: which pictures, in their order.
        """
        rows = tuple(map(int, indices))
        if rows not in self._marks:  # cells of one grid share their pictures
            digest = hashlib.sha256(" ".join(map(str, rows)).encode())
            for start in range(0, len(rows), CHUNK):
                digest.update(self.images(rows[start : start + CHUNK]).contiguous().numpy())  # type: ignore[arg-type]
            self._marks[rows] = digest.hexdigest()[:12]
        return self._marks[rows]

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The pictures at some indices, float32 (n, channels, height, width) in [0, 1]; only these are decoded.

        Args:
            indices: n integers in 0..N-1.

        Raises:
            ValueError: an index outside 0..N-1, another shape, or values outside [0, 1].
        """
        rows = [int(index) for index in indices]
        wrong = [index for index in rows if not 0 <= index < len(self)]
        if wrong:
            raise ValueError(f"Expected indices in 0..{len(self) - 1} of {self.name}, got {wrong[0]}.")
        images = self.read(rows)
        if not images.is_floating_point():
            images = images.float() / 255
        if images.shape != (len(rows), *self.image_shape):
            raise ValueError(
                f"Expected {self.name} images {(len(rows), *self.image_shape)}, got {tuple(images.shape)}."
            )
        return check_range(images.float(), rows, self.name)


def check_range(images: Tensor, indices: Sequence[int], name: str) -> Tensor:
    """`images` themselves, if every value lies in [0, 1].

    Args:
        images: (n, channels, height, width).
        indices: their n places in the data set, for the message.
        name: of the data set, for the message.

    Raises:
        ValueError: with the number of images that do not, and the first one's index.
    """
    good = ((images >= 0) & (images <= 1)).flatten(1).all(1)  # NaN compares false, so it is refused too
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        low, high = images[first].min().item(), images[first].max().item()
        raise ValueError(
            f"Expected {name} images in [0, 1]: {int((~good).sum())} of {len(images)} are not, the first at index "
            f"{indices[first]} with values in [{low:.3g}, {high:.3g}]. Scale them (uint8 / 255, or (x + 1) / 2)."
        )
    return images
