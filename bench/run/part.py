"""A part of a grid: fewer seeds, fewer data seeds, fewer pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.cell import Cell


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a grid: of each group of cells that differ in seeds alone, the first ones.

    Attributes:
        seeds: of a group, at most; None is all.
        data_seeds: of a group, at most; None is all.
        images: pictures of a cell, at most; None is as many as it has.
    """

    seeds: int | None = None
    data_seeds: int | None = None
    images: int | None = None

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """This part of some cells, in their order."""
        groups: dict[str, tuple[list[int], list[int]]] = {}
        found = []
        for cell in cells:
            seeds, data_seeds = groups.setdefault(replace(cell, seed=0, data_seed=0).key, ([], []))
            if _is_among(cell.seed, seeds, self.seeds) and _is_among(cell.data_seed, data_seeds, self.data_seeds):
                found.append(self._smaller(cell))
        return found

    def _smaller(self, cell: Cell) -> Cell:
        return cell if self.images is None or self.images >= cell.num_images else replace(cell, num_images=self.images)

    def __str__(self) -> str:
        fields = {"seeds": self.seeds, "data_seeds": self.data_seeds, "images": self.images}
        return ",".join(f"{name}={value}" for name, value in fields.items() if value is not None)

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that `str` wrote. Raises ValueError for another text."""
        names = ("seeds", "data_seeds", "images")
        found: dict[str, int] = {}
        for word in text.split(","):
            name, _, value = word.strip().partition("=")
            if name not in names or not value.isdigit() or int(value) < 1 or name in found:
                raise ValueError(f"Expected a part such as seeds=1,data_seeds=4,images=32, got {text!r}.")
            found[name] = int(value)
        return cls(**found)


def _is_among(value: int, first: list[int], most: int | None) -> bool:
    """Whether a value is one of the first ones that were seen, which it may join."""
    if value not in first and (most is None or len(first) < most):
        first.append(value)
    return value in first
