"""The data sets, by name: real pictures in [0, 1], only those asked for are decoded.

To add one, `register_dataset` its record.

data = load_dataset("digits")
rows = subset(data.labels, num_images=64, data_seed=0, balanced=True)
images, labels = data.images(rows), data.labels[rows]
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.datasets.image_set import ImageSet, MissingData, check_range
from bench.datasets.info import DatasetInfo, Split
from bench.datasets.known import KNOWN
from bench.datasets.pictures import say_what_is_in
from bench.datasets.sampling import shuffled, subset
from defenses.models.weights import cache_folder
from defenses.registry import Registry

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

DATASETS: Registry[DatasetInfo] = Registry("data set")


def register_dataset(info: DatasetInfo) -> DatasetInfo:
    """Make `info` known under its name. Raises ValueError when the name is taken."""
    return DATASETS.register(info)


def dataset_info(name: str) -> DatasetInfo:
    """The record of a data set; an unknown name raises LookupError with the nearest match and the list."""
    return DATASETS[name]


def load_dataset(
    name: str, *, data_dir: Path | str | None = None, download: bool = False, split: Split = "test"
) -> ImageSet:
    """The pictures of a data set with their labels.

    Args:
        name: of `DATASETS`.
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


for _info in KNOWN:
    register_dataset(_info)
