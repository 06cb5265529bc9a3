"""`bench train NAME`: make the small networks that ship with the package, reproducibly, with a record of how."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from bench.training.progress import Progress, silent
from defenses.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Something that `bench train` can make.

    Attributes:
        name: what `bench train` is told.
        run: (output, seed, effort, progress, **options) -> the record. Writes its files into the folder `output`.
            With `for_dataset`, the data set's name comes first.
        for_dataset: whether it trains on a data set that the user names.
        options: what `bench train` may be told besides.
    """

    name: str
    run: Callable[..., dict[str, Any]]
    for_dataset: bool = False
    options: tuple[str, ...] = ()


RECIPES: Registry[Recipe] = Registry("training recipe")


def _digits(name: str) -> Recipe:
    """The recipe `train_<name>` of the module `name`, imported when it runs: torch takes a second."""

    def run(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
        module = import_module(f"bench.training.{name}")
        return getattr(module, f"train_{name}")(output, seed, effort, progress)

    return Recipe(name=name, run=run)


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
    download: bool = False, **options: str,
) -> dict[str, Any]:  # fmt: skip
    from bench.datasets import load_dataset
    from bench.training.classifier_recipe import train_classifier

    train, test = (load_dataset(dataset, split=split, download=download) for split in ("train", "test"))
    return train_classifier(
        train, test, output, adversarial=adversarial, seed=seed, effort=effort, progress=progress, **options
    )


def _velocity(
    dataset: str, output: Path, seed: int, effort: float, progress: Progress, download: bool = False, **options: str
) -> dict[str, Any]:
    from bench.datasets import load_dataset
    from bench.training.velocity_recipe import train_velocity

    train = load_dataset(dataset, split="train", download=download)
    return train_velocity(train, output, seed=seed, effort=effort, progress=progress, **options)


def _adbm(
    dataset: str, output: Path, seed: int, effort: float, progress: Progress, download: bool = False, **options: str
) -> dict[str, Any]:
    from bench.datasets import load_dataset
    from bench.training.adbm_recipe import train_adbm

    train, test = (load_dataset(dataset, split=split, download=download) for split in ("train", "test"))
    return train_adbm(train, test, output, seed=seed, effort=effort, progress=progress, **options)


for _recipe in (
    *map(_digits, ("digits", "digits_conditional", "digits_energy", "digits_perturbation")),
    Recipe(name="score", run=_score, for_dataset=True, options=("scale", "device", "score", "download")),
    Recipe(name="classifier", run=_classifier, for_dataset=True, options=("adversarial", "network", "download")),
    Recipe(name="velocity", run=_velocity, for_dataset=True, options=("scale", "corruption", "classifier", "download")),
    Recipe(name="adbm", run=_adbm, for_dataset=True, options=("score", "classifier", "adversarial", "download")),
):
    RECIPES.register(_recipe)


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
    """Train what `name` stands for into a folder: safetensors (or score_sde's .pt) and record.json.

    The same seed gives the same files on the same machine with the same packages and number of threads.

    Args:
        name: of `RECIPES`.
        output: the folder; it is made.
        dataset: whose training pictures, for all but the digits' recipes.
        seed: of every random draw.
        effort: scales the number of steps, > 0; 1 is what the package ships.
        progress: called after each step with what is trained, steps done, steps in all, and the loss.
        options: adversarial, what "classifier" is trained against (none, Linf:8/255 and the like), and network, which
            of `classifier_recipe.KINDS` it is; scale ("small" or "full"), device and score (a network to train further)
            of "score"; scale, corruption and classifier of "velocity"; score, classifier and adversarial of "adbm";
            download, for all of them: let torchvision fetch a missing data set.

    Returns:
        The record, as record.json holds it.

    Raises:
        LookupError: an unknown name.
        ValueError: an effort that is not positive, an option that the recipe does not have, or a folder that holds
            another network's record.
    """
    recipe = RECIPES[name]
    if recipe.for_dataset != (dataset is not None):
        needy = ", ".join(other.name for other in RECIPES.values() if other.for_dataset)
        raise ValueError(f"Expected --dataset for {needy} and for no other recipe, got {dataset}.")
    if strange := set(options) - set(recipe.options):
        raise ValueError(f"Expected options of {name} among {recipe.options}, got {', '.join(strange)}.")
    if not 0 < effort < inf:
        raise ValueError(f"Expected a finite effort > 0, got {effort}.")
    import torch

    output.mkdir(parents=True, exist_ok=True)
    try:
        of = () if dataset is None else (dataset,)
        record = recipe.run(*of, output, seed, effort, progress, **options)
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
    (output / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if recipe.for_dataset:  # the other recipes have no checkpoint, and a file of that name is not theirs
        (output / "checkpoint.pt").unlink(missing_ok=True)
    return record
