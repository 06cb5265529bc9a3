"""Where weight files lie, and reading them safely: no code in the file runs, an altered file is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from defenses.models.contents import disguise, is_program, is_safetensors, pickled_classes
from defenses.registry import unknown_name

ASSETS = Path(__file__).with_name("assets")


class MissingWeights(LookupError):
    """A weight file is not on this machine. The message says where it comes from and where to put it.

    Class attributes:
        remedy: what to do, for the command line.
    """

    remedy = "`bench doctor` says which files are missing and where each goes; `bench fetch` gets the public ones."


def cache_folder() -> Path:
    """Where downloads go: $BENCH_CACHE_DIR, else ~/.cache/purification-bench."""
    return Path(os.environ.get("BENCH_CACHE_DIR") or Path.home() / ".cache" / "purification-bench").expanduser()


def weight_folders() -> tuple[Path, ...]:
    """The folders searched for weight files, in order: $BENCH_DATA_DIR/weights, then `weights` in the cache folder."""
    data = os.environ.get("BENCH_DATA_DIR")
    first = (Path(data).expanduser() / "weights",) if data else ()
    return (*first, cache_folder() / "weights")


def find_weights(file: str, *, source: str, sha256: str | None = None) -> Path:
    """Path of a weight file on this machine.

    Args:
        file: a name, or a path relative to a weight folder.
        source: where the file can be had, for the message.
        sha256: what it must be, for the message.

    Raises:
        MissingWeights: no folder of `weight_folders` holds it.
    """
    check_inside(file)
    for folder in weight_folders():
        if (folder / file).is_file():
            return folder / file
    digest = f" Its sha256 is {sha256}." if sha256 else ""
    raise MissingWeights(
        f"Expected the weights {file} in {' or '.join(map(str, weight_folders()))}, found none. "
        f"Its origin: {source}. Put it there (BENCH_DATA_DIR and BENCH_CACHE_DIR move these folders).{digest}"
    )


def check_inside(file: str) -> None:
    """Raise ValueError where a file's name leads out of the folder that it is joined to."""
    parts = file.replace("\\", "/").split("/")
    if not file or "\0" in file or ":" in parts[0] or "" in parts or {".", ".."} & set(parts):
        raise ValueError(f"Expected a name of a file below the weight folder, got {file!r}. Correct it.")


def own_file(path: str) -> Path:
    """The weight file of the user's at `path` (~ is expanded). Raises MissingWeights."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise MissingWeights(f"Expected a weight file at {found}, found none. Put it there, or correct the name.")
    return found


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file; read once for each state (size, time of change) of the file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_disguise(path: Path) -> None:
    """Raise ValueError where `path` is a web page, an error message, a pointer or nothing in place of weights."""
    if (found := disguise(path)) is not None:
        raise ValueError(f"Expected weights in {path}, found {found}. Delete it and fetch the file again.")


def load_checkpoint(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. No code in the file runs.

    Args:
        path: a file of safetensors or of torch.save, whatever its name; the latter is read with weights_only=True.
        sha256: what the file must be, 64 hex digits; None where nobody states it.

    Raises:
        MissingWeights: there is no such file.
        ValueError: it is truncated, altered, or holds something else than a dict of tensors and plain containers.
    """
    if not path.is_file():
        raise MissingWeights(f"Expected a weight file at {path}, found none. Put it there.")
    if sha256 is not None and sha256_of(path) != sha256:
        raise ValueError(
            f"The weight file {path} is truncated or altered: expected sha256 {sha256}, found {sha256_of(path)} "
            f"({path.stat().st_size} bytes). Delete it and fetch it again."
        )
    refuse_disguise(path)
    if is_program(path):
        raise ValueError(
            f"Expected a checkpoint of tensors in {path}, found a TorchScript program, which reading would run. Save "
            "its weights: torch.save(torch.jit.load(...).state_dict(), ...)."
        )
    try:
        found = _read(path)
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(f"Expected a checkpoint of tensors in {path}, {_why_unread(path, error)}") from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"Expected a state dict (name -> tensor) in {path}, found {_words(found)}. Save the network's own: "
            "torch.save(network.state_dict(), ...)."
        )
    return dict(found)


def _why_unread(path: Path, error: Exception) -> str:
    """What is in a file that could not be read, and what to do about it."""
    if classes := pickled_classes(path):
        return (
            f"found pickled objects of {', '.join(classes[:4])}{' and others' * (len(classes) > 4)}, which reading "
            "would run as code. Where you trust the file, load it with its own code and save "
            "network.state_dict() alone, or convert it to safetensors."
        )
    own = isinstance(error, pickle.UnpicklingError)  # whose words advise to run what the file says
    said = "" if own or not str(error) else f": {str(error).splitlines()[0]}"
    return (
        f"could not read it ({type(error).__name__}{said}; sha256 {sha256_of(path)}). Delete it and fetch it again, or "
        "convert it to safetensors if it holds pickled objects."
    )


def _words(found: Any) -> str:
    """A value as a reader would call it: its type, and a tensor's shape or a container's length."""
    if hasattr(found, "shape"):
        return f"a {type(found).__name__} of shape {tuple(found.shape)}"
    length = f" of {len(found)} entries" if hasattr(found, "__len__") else ""
    return f"{'an' if type(found).__name__[0] in 'aeiou' else 'a'} {type(found).__name__}{length}"


def _read(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if is_safetensors(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    with torch.serialization.safe_globals(_numpy_scalars()), path.open("rb") as file:  # a path's suffix would count
        return torch.load(file, map_location="cpu", weights_only=True)


def _numpy_scalars() -> list[Any]:
    """What lets weights_only=True read a numpy number (score_sde's optimiser state holds its learning rate as one)."""
    import numpy as np
    from numpy._core.multiarray import scalar

    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype("float64"))]


def training_record(path: Path, recipe: str, *others: str) -> dict[str, Any]:
    """What the record.json that `bench train` wrote beside a weight file says of it.

    Args:
        path: the weight file.
        recipe: what `bench train` must have been told, e.g. "classifier".
        others: what else it may have been told.

    Returns:
        The file's entry, and `dataset`, the name of what it was trained on.

    Raises:
        MissingWeights: there is no record.
        ValueError: it does not describe the file, or it is that of another recipe or scale.
    """
    file = path.with_name("record.json")
    if not file.is_file():
        raise MissingWeights(
            f"Expected {file}, which `bench train {recipe}` writes beside {path.name}, found none. Copy both."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found, made = {**record["files"][path.name], "dataset": record["dataset"]["name"]}, record.get("recipe")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"Expected {file} to describe {path.name}, found no such entry. Copy both.") from error
    if made not in (recipe, *others, None) or record.get("scale", "small") != "small":
        raise ValueError(f"Expected what `bench train {recipe}` made at scale small in {path}, {file} says otherwise.")
    return found


def strip_prefix(state: Mapping[str, Any], prefix: str = "module.") -> dict[str, Any]:
    """A state dict without the prefix that DataParallel and Lightning put before each name."""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def asset_path(name: str) -> Path:
    """Path of a file shipped with the package, e.g. "digits/digits_cnn.safetensors". LookupError if there is none."""
    path = ASSETS / name
    if not path.is_file():
        known = [str(file.relative_to(ASSETS)) for file in ASSETS.rglob("*") if file.is_file()]
        raise unknown_name("asset", name, known)
    return path


@lru_cache(maxsize=8)
def asset_record(folder: str, name: str = "record") -> dict[str, Any]:
    """The training record of the assets in a folder, which `bench train` writes: sha256, accuracies, settings.

    Args:
        folder: below defenses/models/assets, e.g. "digits".
        name: "record"; "repeated" where the same training was done again (its weights are not kept).
    """
    return json.loads(asset_path(f"{folder}/{name}.json").read_text(encoding="utf-8"))
