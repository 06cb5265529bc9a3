"""`bench train NAME`: make the small networks that ship with the package, reproducibly, with a record of how."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
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


RECIPES: dict[str, Recipe] = {
    "digits": _digits,
    "digits_conditional": _digits_conditional,
    "digits_energy": _digits_energy,
}


def train(
    name: str, *, output: Path, seed: int = 0, effort: float = 1.0, progress: Progress = silent
) -> dict[str, Any]:
    """Train what `name` stands for into the folder `output` (safetensors and record.json); returns the record.

    effort: scales the number of steps; 1 is what the package ships. progress: called after each step with what is
    trained, steps done, steps in all, and the loss. The same seed gives the same files on the same machine with the
    same packages and number of threads. Raises LookupError for an unknown name, ValueError for an effort that is not
    positive.
    """
    if name not in RECIPES:
        raise unknown_name("training recipe", name, RECIPES)
    if not effort > 0:
        raise ValueError(f"Expected effort > 0, got {effort}.")
    import torch

    output.mkdir(parents=True, exist_ok=True)
    record = RECIPES[name](output, seed, effort, progress)
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
    return record
