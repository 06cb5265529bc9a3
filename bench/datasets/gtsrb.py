"""GTSRB (Houben et al., IJCNN 2013) in the layouts that people have, from the user's own copy.

<data>/gtsrb/GT-final_test.csv, <data>/gtsrb/GTSRB/Final_Test/Images/*.ppm   as torchvision lays it out (;)
<data>/gtsrb/GTSRB/Final_Test/Images/GT-final_test.csv, beside the pictures   the official archives, unpacked (;)
<data>/gtsrb/Test.csv, <data>/gtsrb/Test/*.png                               Kaggle's copy (commas, a column Path)
<data>/gtsrb/.../{Training,Final_Training/Images,Train}/<class>/*             training pictures of the three
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import folders_in, is_hidden, open_picture, pictures_below, say_what_is_in

TABLES = ("gt-final_test", "test", "gt-final_test.test")  # stems in lower case, the likeliest first
TRAIN = ("training", "images", "train")
SIDE = 32


def gtsrb(folder: Path, split: str, class_names: tuple[str, ...]) -> ImageSet | None:
    """GTSRB, whole pictures (no crop to the sign), resized to 32x32, bilinear, antialiased.

    Args:
        folder: holds gtsrb.
        split: "test" or "train".
        class_names: in the order of the labels.

    Returns:
        None where the files are not there.

    Raises:
        MissingData: a table of labels is there and a picture of it is not.
        ValueError: a table without labels, or with others than the data set's.
    """
    root = next((folder / name for name in ("gtsrb", "GTSRB") if (folder / name).is_dir()), None)
    rows = None if root is None else _test(root, len(class_names)) if split == "test" else _train(root, class_names)
    if not rows:
        return None

    def read(indices: list[int]) -> Tensor:
        from PIL.Image import Resampling

        pictures = [open_picture(rows[index][0]).resize((SIDE, SIDE), Resampling.BILINEAR) for index in indices]
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)

    return ImageSet(
        name="gtsrb", labels=torch.tensor([label for _, label in rows]), class_names=class_names,
        image_shape=(3, SIDE, SIDE), read=read, note=f"{split}, 32x32",
    )  # fmt: skip


def _test(root: Path, classes: int) -> list[tuple[Path, int]] | None:
    tables = [path for path in sorted(root.rglob("*.csv")) if path.stem.lower() in TABLES and not is_hidden(path, root)]
    if not tables:
        return None
    table = min(tables, key=lambda path: (TABLES.index(path.stem.lower()), len(path.parts)))
    entries = _entries(table)
    label, file = (_column(entries, table, names) for names in (("classid",), ("path", "filename")))
    labels = [_label(entry[label], table, classes) for entry in entries]
    found = _located([entry[file] for entry in entries], table, root)
    return list(zip(found, labels, strict=True))


def _entries(table: Path) -> list[dict[str, str]]:
    """The rows of a table of commas or semicolons, by column names in lower case."""
    text = table.read_text(encoding="utf-8-sig")
    mark = ";" if ";" in text.partition("\n")[0] else ","
    rows = list(csv.reader(text.splitlines(), delimiter=mark))
    names = [name.strip().lower() for name in rows[0]] if rows else []
    entries = [dict(zip(names, row, strict=False)) for row in rows[1:] if any(row)]
    if not entries or any(len(entry) != len(names) for entry in entries):
        raise ValueError(f"Expected a table of GTSRB's test pictures in {table}, found {len(entries)} rows of {names}.")
    return entries


def _column(entries: list[dict[str, str]], table: Path, names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in entries[0]), None)
    if found is None:
        raise ValueError(
            f"Expected a column {' or '.join(names)} in {table}, found {', '.join(entries[0])}. The labels of the test "
            "pictures are in the table GT-final_test of GTSRB_Final_Test_GT.zip, or in Kaggle's table Test."
        )
    return found


def _label(text: str, table: Path, classes: int) -> int:
    if not text.strip().isdigit() or int(text) >= classes:
        raise ValueError(f"Expected classes 0..{classes - 1} in {table}, found {text!r}.")
    return int(text)


def _located(names: list[str], table: Path, root: Path) -> list[Path]:
    """The pictures of a table: beside it, or where one of the layouts has them."""
    within = "Final_Test/Images"
    places = [table.parent, *(table.parent / name for name in (f"GTSRB/{within}", within, "Images", "Test"))]
    places += [root / f"GTSRB/{within}", root]
    place = max(places, key=lambda place: sum((place / name).is_file() for name in names[:: max(1, len(names) // 50)]))
    paths = [place / name for name in names]
    lost = [path for path in paths if not path.is_file()]
    if lost:
        raise MissingData(
            f"Expected the {len(names):,} pictures that {table} lists, found {len(names) - len(lost):,} of them: "
            f"{lost[0]} is not there. In {root}: {say_what_is_in(root)}. Copy the rest."
        )
    return paths


def _train(root: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]] | None:
    """Class folders, named by number: 00000, or 0 in the copy on Kaggle."""
    for place in sorted(path for path in root.rglob("*") if path.is_dir() and path.name.lower() in TRAIN):
        folders = {int(path.name): path for path in folders_in(place) if path.name.isdigit()}
        if not folders or "test" in place.parent.name.lower():
            continue
        if sorted(folders) != list(range(len(class_names))):
            raise MissingData(
                f"Expected class folders 0..{len(class_names) - 1} in {place}, found {len(folders)}. Copy the rest."
            )
        return [(path, label) for label in sorted(folders) for path in pictures_below(folders[label])]
    return None
