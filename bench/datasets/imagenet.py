"""ImageNet's validation pictures (Russakovsky et al., IJCV 2015), from the user's own copy, in the layouts people have.

imagenet/val/<wnid>/*.JPEG                        one folder a class, as torchvision and most scripts lay it out
imagenet/ILSVRC2012_img_val.tar (or val/*.JPEG)   the official files, beside ILSVRC2012_devkit_t12.tar.gz for the labels
imagenet_sample/imagenet_sample_100.tar           100 pictures with index.csv (the data set `imagenet_sample`)
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.pictures import folders_in, open_picture, pictures_below, say_what_is_in

if TYPE_CHECKING:
    from PIL import Image

Open = Callable[[], BinaryIO]
RESIZE, CROP = 256, 224
CLASSES, PICTURES = 1000, 50_000


def resize_and_crop(picture: Image.Image) -> Tensor:
    """Shorter side to 256 (bilinear, antialiased), centre crop of 224, as torchvision does: uint8 (3, 224, 224)."""
    from torchvision.transforms import functional as f

    return f.pil_to_tensor(f.center_crop(f.resize(picture.convert("RGB"), [RESIZE]), [CROP]))


def picture_set(
    name: str, files: list[tuple[str, Open]], labels: list[int], class_names: tuple[str, ...], note: str
) -> ImageSet:
    """An ImageSet that opens one encoded picture for each index asked for.

    Args:
        name: of the data set.
        files: a name for messages and an opener for each picture.
        labels: one a picture.
        class_names: in the order of the labels.
        note: see `ImageSet`.
    """

    def read(indices: list[int]) -> Tensor:
        return torch.stack([resize_and_crop(_open(*files[index])) for index in indices])

    return ImageSet(
        name=name,
        labels=torch.tensor(labels),
        class_names=class_names,
        image_shape=(3, CROP, CROP),
        read=read,
        note=note,
    )


def _open(name: str, read: Open) -> Image.Image:
    with read() as file:
        return open_picture(file, name)


def load_imagenet(folder: Path) -> ImageSet | None:
    """The validation set under `folder`/imagenet, or None when no layout is found there."""
    root = folder / "imagenet"
    for layout in (_class_folders, _official_tar, _official_folder):
        found = layout(root)
        if found is not None:
            return found
    return None


def load_imagenet_sample(folder: Path) -> ImageSet | None:
    """One picture of every tenth class, from `folder`/imagenet_sample, or None."""
    path = folder / "imagenet_sample" / "imagenet_sample_100.tar"
    if not path.is_file():
        return None
    members = _members(path)
    if "index.csv" not in members:
        raise ValueError(
            f"Expected index.csv in {path}, found {', '.join(sorted(members)[:4]) or 'nothing'}. Pack it too."
        )
    rows = list(csv.DictReader(io.TextIOWrapper(members["index.csv"](), "utf-8")))
    names = tuple(row["filename"] for row in rows)
    if lost := [name for name in names if name not in members]:
        raise ValueError(
            f"Expected the {len(names)} pictures of index.csv in {path}, found {len(names) - len(lost)}: {lost[0]} is "
            "not there. Pack it again."
        )
    classes = {int(row["index"]): row["filename"].split("_")[0] for row in rows}
    class_names = tuple(classes.get(index, str(index)) for index in range(1000))
    labels = [int(row["index"]) for row in rows]
    return picture_set(
        "imagenet_sample",
        [(f"{n} of {path}", members[n]) for n in names],
        labels,
        class_names,
        "100 pictures, no benchmark split",
    )


def _class_folders(root: Path) -> ImageSet | None:
    """val/<wnid>/*.JPEG: the class index is the position of the wnid among the sorted 1,000."""
    val = root / "val"
    folders = [path for path in folders_in(val) if path.name.startswith("n")] if val.is_dir() else []
    if not folders:
        return None
    if len(folders) != CLASSES:
        raise ValueError(
            f"Expected {CLASSES} class folders in {val}, found {len(folders)} ({folders[0].name}, ..., "
            f"{folders[-1].name}); the class indices need all of them. Copy the rest, or take out what is no class."
        )
    paths = [(path, index) for index, folder in enumerate(folders) for path in pictures_below(folder)]
    if not paths:
        raise MissingData(
            f"Expected pictures in the class folders of {val}, found none. In the first: {say_what_is_in(folders[0])}."
        )
    note = "val, class folders" + _part(len(paths), len({index for _, index in paths}))
    files, labels = [(str(path), _opener(path)) for path, _ in paths], [label for _, label in paths]
    return picture_set("imagenet", files, labels, tuple(folder.name for folder in folders), note)


def _part(pictures: int, classes: int) -> str:
    """What to say of a set that is not whole."""
    if (pictures, classes) == (PICTURES, CLASSES):
        return ""
    return f", {pictures:,} of {PICTURES:,} pictures, of {classes:,} of {CLASSES:,} classes"


def _official_tar(root: Path) -> ImageSet | None:
    path = root / "ILSVRC2012_img_val.tar"
    return _official(root, _members(path), "val, official tar") if path.is_file() else None


def _official_folder(root: Path) -> ImageSet | None:
    found = pictures_below(root / "val", deep=False) if (root / "val").is_dir() else []
    paths = {path.name: _opener(path) for path in found if path.name.startswith("ILSVRC2012_val_")}
    return _official(root, paths, "val, official file names") if paths else None


def _official(root: Path, members: dict[str, Open], note: str) -> ImageSet:
    """The n-th picture of the official set (by file name) has the n-th label of the development kit."""
    wnids, truth = _development_kit(root)
    names = sorted(name for name in members if name.endswith(".JPEG") and not name.startswith("."))
    if len(names) != len(truth):
        raise ValueError(
            f"Expected {len(truth)} pictures in ImageNet's validation set at {root}, got {len(names)}: copy the rest."
        )
    return picture_set("imagenet", [(f"{name} of {root}", members[name]) for name in names], truth, wnids, note)


def _development_kit(root: Path) -> tuple[tuple[str, ...], list[int]]:
    """Sorted wnids and the class index of each validation picture, from the development kit (tar.gz or its folder)."""
    from scipy.io import loadmat

    kit, tar = "ILSVRC2012_devkit_t12", root / "ILSVRC2012_devkit_t12.tar.gz"
    files = ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
    if tar.is_file():
        with tarfile.open(tar) as archive:
            contents = [_bytes(archive, f"{kit}/data/{file}") for file in files]
    elif (root / kit / "data").is_dir():
        contents = [(root / kit / "data" / file).read_bytes() for file in files]
    else:
        raise MissingData(
            f"Expected ImageNet's development kit (the labels) at {tar}, found none. Get it from https://image-net.org "
            "(ILSVRC2012, development kit of tasks 1 and 2) and put it there."
        )
    synsets = loadmat(io.BytesIO(contents[0]), squeeze_me=True)["synsets"]
    by_id = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}
    wnids = tuple(sorted(by_id.values()))
    index = {wnid: position for position, wnid in enumerate(wnids)}
    return wnids, [index[by_id[int(line)]] for line in contents[1].split()]


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def _opener(path: Path) -> Open:
    return lambda: path.open("rb")


def _members(path: Path) -> dict[str, Open]:
    """File name -> opener, for an uncompressed tar: one pass over the headers, then direct reads."""
    with tarfile.open(path, "r:") as archive:
        places = {Path(m.name).name: (m.offset_data, m.size) for m in archive if m.isfile()}

    def opener(start: int, size: int) -> Open:
        def read() -> BinaryIO:
            with path.open("rb") as file:
                file.seek(start)
                return io.BytesIO(file.read(size))

        return read

    return {name: opener(*place) for name, place in places.items()}
