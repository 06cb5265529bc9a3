"""`bench train NAME`: make the small networks that ship with the package, reproducibly, with a record of how."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from bench.training.progress import Progress, silent
from defenses.registry import unknown_name

Recipe = Callable[[Path, int, float, Progress], dict[str, Any]]


def _digits(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    from bench.training.digits import train_digits

    return train_digits(output, seed, effort, progress)


def _digits_conditional(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    from bench.training.digits_conditional import train_digits_conditional

    return train_digits_conditional(output, seed, effort, progress)


def _digits_energy(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    from bench.training.digits_energy import train_digits_energy

    return train_digits_energy(output, seed, effort, progress)


def _score(
    dataset: str, output: Path, seed: int, effort: float, progress: Progress, download: bool = False, **options: str
) -> dict[str, Any]:
    from bench.datasets import load_dataset
    from bench.datasets.folder import picture_folder
    from bench.training.score_recipe import train_score

    own = dataset.startswith("imagefolder")
    load = picture_folder if own else partial(load_dataset, download=download)
    return train_score(
        load(dataset, split="train"), load(dataset, split="test"), output, seed=seed, effort=effort, progress=progress,
        **options,
    )  # fmt: skip


def _classifier(
    dataset: str, output: Path, seed: int, effort: float, progress: Progress, adversarial: str = "none",
    download: bool = False,
) -> dict[str, Any]:  # fmt: skip
    from bench.datasets import load_dataset
    from bench.training.classifier_recipe import train_classifier

    train, test = (load_dataset(dataset, split=split, download=download) for split in ("train", "test"))
    return train_classifier(train, test, output, adversarial=adversarial, seed=seed, effort=effort, progress=progress)


RECIPES: dict[str, Recipe] = {
    "digits": _digits,
    "digits_conditional": _digits_conditional,
    "digits_energy": _digits_energy,
}
FOR_DATASET: dict[str, Callable[..., dict[str, Any]]] = {"score": _score, "classifier": _classifier}
OPTIONS = {  # of the recipes for a data set
    "score": ("scale", "device", "download"),
    "classifier": ("adversarial", "download"),
}


def train(
    name: str,
    *,
    output: Path,
    dataset: str | None = None,
    seed: int = 0,
    effort: float = 1.0,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Any]:
    """Train what `name` stands for into the folder `output` (safetensors and record.json); returns the record.

    dataset: whose training pictures, for "score" and "classifier". effort: scales the number of steps; 1 is what the
    package ships. progress: called after each step with what is trained, steps done, steps in all, and the loss.
    options: adversarial, what "classifier" is trained against (none, Linf:8/255 and the like); scale ("small" or
    "full") and device of "score"; download, for both: let torchvision fetch a missing data set. The same seed gives the
    same files on the same machine with the same packages and number of threads. Raises LookupError for an unknown name,
    ValueError for an effort that is not positive, an option that the recipe does not have, or a folder that holds
    another network's record.
    """
    if name not in (*RECIPES, *FOR_DATASET):
        raise unknown_name("training recipe", name, [*RECIPES, *FOR_DATASET])
    if (name in FOR_DATASET) != (dataset is not None):
        raise ValueError(f"Expected --dataset for {' and '.join(FOR_DATASET)} and for them alone, got {dataset}.")
    if strange := set(options) - set(OPTIONS.get(name, ())):
        raise ValueError(f"Expected options of {name} among {OPTIONS.get(name, ())}, got {', '.join(strange)}.")
    if not 0 < effort < inf:
        raise ValueError(f"Expected a finite effort > 0, got {effort}.")
    import torch

    output.mkdir(parents=True, exist_ok=True)
    try:
        if dataset is None:
            record = RECIPES[name](output, seed, effort, progress)
        else:
            record = FOR_DATASET[name](dataset, output, seed, effort, progress, **options)
    except BaseException:
        with suppress(OSError):  # a folder in which nothing was written goes
            output.rmdir()
        raise
    packages = {package: version(package) for package in ("torch", "numpy", "scikit-learn", "safetensors")}
    record = {
        "recipe": name,
        "seed": seed,
        "effort": effort,
        "python": platform.python_version(),
        "packages": packages,
        "threads": torch.get_num_threads(),
        **record,
    }
    (output / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    if dataset is not None:  # the other recipes have no checkpoint, and a file of that name is not theirs
        (output / "checkpoint.pt").unlink(missing_ok=True)
    return record
