"""The data sets, by name: real pictures in [0, 1], only those asked for are decoded.

To add one, `register_dataset` its record.

data = load_dataset("digits")
rows = subset(data.labels, num_images=64, data_seed=0, balanced=True)
images, labels = data.images(rows), data.labels[rows]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, overload

from bench.datasets.functions import file_info, function_info
from bench.datasets.image_set import ImageSet, MissingData, check_range
from bench.datasets.info import DatasetInfo, Split
from bench.datasets.known import KNOWN
from bench.datasets.npz import read_npz
from bench.datasets.own import OWN, own_info
from bench.datasets.pictures import say_what_is_in
from bench.datasets.sampling import shuffled, subset
from defenses.models.weights import cache_folder
from defenses.plugins import adopt_record, welcome
from defenses.registry import PYTHON, Registry, check_name

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "ImageSet",
    "MissingData",
    "Split",
    "check_range",
    "data_folder",
    "dataset_info",
    "load_dataset",
    "register_dataset",
    "shuffled",
    "subset",
]

F = TypeVar("F", bound=Callable[..., Any])
DATASETS: Registry[DatasetInfo] = Registry("data set")


@overload
def register_dataset(info: DatasetInfo, /) -> DatasetInfo: ...


@overload
def register_dataset(
    info: str, /, *, classes: int | Sequence[str] | None = None, title: str = "", source: str = "", licence: str = OWN
) -> Callable[[F], F]: ...


def register_dataset(
    info: DatasetInfo | str,
    /,
    *,
    classes: int | Sequence[str] | None = None,
    title: str = "",
    source: str = "",
    licence: str = OWN,
) -> Any:
    """Make a data set known: by its record, or as @register_dataset("my_data") above a function.

    The function returns (pictures, labels), or an `ImageSet`; with a parameter `split` it is asked for "train" too. It
    runs when the data set is first used. docs/your-own.md says which arrays it may return.

    Args:
        info: the record, or the name.
        classes: of a function: their number or names; None is the largest label and one.
        title: what tables call it.
        source: where it comes from.
        licence: of its pictures.

    Raises:
        ValueError: the name is taken.
    """
    if isinstance(info, DatasetInfo):
        return DATASETS.register(info)
    facts = {"title": title, "licence": licence, **({"source": source} if source else {})}

    def register(function: F) -> F:
        name = check_name("data set", info)
        DATASETS.register_late(name, lambda: function_info(name, function, classes=classes, **facts))
        return function

    return register


def dataset_info(name: str) -> DatasetInfo:
    """The record of a data set; an unknown name raises LookupError with the nearest match and the list."""
    return DATASETS[name]


def load_dataset(
    name: str, *, data_dir: Path | str | None = None, download: bool = False, split: Split = "test"
) -> ImageSet:
    """The pictures of a data set with their labels.

    Args:
        name: of `DATASETS`, or npz:<path>, imagefolder:<path>, hf:<folder> or <file>.py:<function>.
        data_dir: folder of the data sets; $BENCH_DATA_DIR, else `data` in the cache folder, where None.
        download: fetch through torchvision what is not there.
        split: "test", what every cell is measured on, or "train".

    Raises:
        LookupError: an unknown name.
        MissingData: the files are not there.
    """
    info, folder = dataset_info(name), data_folder(data_dir)
    found = info.load(folder, split, download)
    if found is None:
        remedy = " or ask for the download (--download)" if info.downloads else ""
        raise MissingData(
            f"Expected the {split} pictures of {name} in {folder}, found {_say_found(folder, info.place)}. "
            f"Put there {info.place}; "
            f"source: {info.source}{remedy}. BENCH_DATA_DIR names another folder, or --data-dir where a command has it."
        )
    return found


def _say_found(folder: Path, place: str) -> str:
    """What is where a data set was looked for, for a message."""
    own = folder / place.partition("/")[0]
    if own.is_dir():
        return f"none in {own.name}/, where there is {say_what_is_in(own)}"
    return f"none; there is {say_what_is_in(folder)}"


def data_folder(data_dir: Path | str | None = None) -> Path:
    """The folder of the data sets: `data_dir`, else $BENCH_DATA_DIR, else `data` in the cache folder."""
    return Path(data_dir or os.environ.get("BENCH_DATA_DIR") or cache_folder() / "data").expanduser()


def _hub(name: str) -> DatasetInfo:
    from bench.datasets.hub_folder import read_hub_folder

    return own_info(name, read_hub_folder)


def _class_folders(name: str) -> DatasetInfo:
    from dataclasses import replace

    from bench.datasets.class_folders import read_class_folders, split_size

    plain, size = split_size(name)
    return replace(own_info(plain, _sized(size) if size else read_class_folders), name=name)


@cache
def _sized(size: int) -> Any:
    from bench.datasets.class_folders import read_class_folders

    return partial(read_class_folders, size=size)


for _info in KNOWN:
    register_dataset(_info)
DATASETS.resolve("npz:", lambda name: own_info(name, read_npz), "npz:<path>")
DATASETS.resolve("imagefolder:", _class_folders, "imagefolder:<path>", "imagefolder:<size>:<path>")
DATASETS.resolve("hf:", _hub, "hf:<folder>")
DATASETS.resolve(PYTHON, file_info, "<file>.py:<function>")
welcome(DATASETS, "datasets", adopt_record(DATASETS, DatasetInfo, register_dataset))
