"""Pictures kept as a lossless grid of 32x32 tiles, row by row, beside a file of labels.

cifar10/test.webp            labels.npz: test (and test_exact: pixels known to equal the original's)
cifar10/train_1..5.webp      labels.npz: train
cifar100/test_class_order.webp   test_class_order_labels.npy
gtsrb/test_subset_32.webp, train_subset_32.webp   <stem>_labels.csv: source_path;class_id, grid order
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from bench.datasets.image_set import ImageSet

SIDE = 32


@lru_cache(maxsize=6)
def read_tiles(path: Path) -> np.ndarray:
    """All tiles of a grid, uint8 (n, 32, 32, 3). Raises ValueError when the picture is no grid of 32x32 tiles."""
    from PIL import Image

    with Image.open(path) as picture:
        grid = np.asarray(picture.convert("RGB"))
    rows, rest_r = divmod(grid.shape[0], SIDE)
    columns, rest_c = divmod(grid.shape[1], SIDE)
    if rest_r or rest_c:
        raise ValueError(
            f"Expected a grid of {SIDE}x{SIDE} tiles in {path}, got {grid.shape[1]}x{grid.shape[0]} pixels."
        )
    return grid.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


def tile_set(name: str, grids: list[Path], labels: np.ndarray, class_names: tuple[str, ...], note: str) -> ImageSet:
    """An ImageSet over grids laid end to end; a grid is decoded when one of its pictures is first asked for.

    Args:
        name: of the data set.
        grids: files of equally many tiles, the last of which may have fewer.
        labels: (N,), one a tile.
        class_names: in the order of the labels.
        note: see `ImageSet`.
    """
    per_grid = -(-len(labels) // len(grids))

    def read(indices: list[int]) -> torch.Tensor:
        pictures = [read_tiles(grids[index // per_grid])[index % per_grid] for index in indices]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) if pictures else torch.zeros(0, 3, SIDE, SIDE)

    return ImageSet(
        name=name, labels=torch.from_numpy(labels.astype(np.int64)), class_names=class_names,
        image_shape=(3, SIDE, SIDE), read=read, note=note,
    )  # fmt: skip


def cifar10_tiles(folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """CIFAR-10 as tiles.

    Args:
        folder: holds cifar10.
        split: "test" or "train".
        class_names: in the order of the labels.

    Returns:
        None where the files are not there.
    """
    stems = ["test"] if split == "test" else [f"train_{part}" for part in range(1, 6)]
    grids = [folder / "cifar10" / f"{stem}.webp" for stem in stems]
    labels = folder / "cifar10" / "labels.npz"
    if not all(path.is_file() for path in (*grids, labels)):
        return None
    with np.load(labels) as arrays:
        y, exact = arrays[split], arrays[f"{split}_exact"]
    return tile_set("cifar10", grids, y, class_names, f"{split} tiles, {int((~exact).sum())} pictures from JPEG")


def cifar100_tiles(folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """CIFAR-100's test pictures as tiles, in class order: the original order is not kept.

    Arguments and answer as those of `cifar10_tiles`; `folder` holds cifar100.
    """
    grid = folder / "cifar100" / "test_class_order.webp"
    if split != "test" or not grid.is_file():
        return None
    labels = np.load(grid.with_name("test_class_order_labels.npy"))
    return tile_set("cifar100", [grid], labels, class_names, "test tiles in class order")


def gtsrb_tiles(folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """A subset of GTSRB as tiles.

    Arguments and answer as those of `cifar10_tiles`; `folder` holds gtsrb.
    """
    grid = folder / "gtsrb" / f"{split}_subset_32.webp"
    if not grid.is_file():
        return None
    lines = grid.with_name(f"{grid.stem}_labels.csv").read_text(encoding="utf-8").split()[1:]
    labels = np.array([int(line.rsplit(";", 1)[1]) for line in lines])
    note = "every 3rd test picture" if split == "test" else "frames 5, 15, 25 of each track"
    return tile_set("gtsrb", [grid], labels, class_names, f"{note}, tiles of 32x32")
