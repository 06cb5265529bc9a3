"""What is known about a data set without opening it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.datasets.image_set import ImageSet

Split = Literal["test", "train"]
Loader = Callable[[Path, str, bool], ImageSet | None]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known about a data set without opening it.

    Attributes:
        name: what a cell calls it.
        title: what tables call it; its name where nothing is given.
        classes: number of classes.
        image_shape: (channels, height, width) of its pictures.
        source: where it comes from.
        place: its files, relative to the data folder.
        licence: of its pictures.
        load: (folder, split, download) -> the pictures, None where they are not there.
        downloads: whether torchvision can fetch it.
        content: () -> digest that changes with the pictures of the user's own, or their code; None where nobody says.
    """

    name: str
    title: str = ""
    classes: int
    image_shape: tuple[int, int, int]
    source: str
    place: str
    licence: str
    load: Loader = field(repr=False)
    downloads: bool = False
    content: Callable[[], str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name)
