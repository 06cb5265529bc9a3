"""`hf:<folder>`: a classifier in a folder of Hugging Face's layout, of timm or of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.models.info import ClassifierInfo
from defenses.models.made import OWN
from defenses.models.weights import MissingWeights

if TYPE_CHECKING:
    from torch import nn

FILES = ("model.safetensors", "pytorch_model.bin")


def hub_classifier(name: str) -> ClassifierInfo:
    """The record of the classifier in a folder with config.json and weights.

    Args:
        name: "hf:<folder>".

    Raises:
        MissingWeights: there is no such folder, or it has no weights.
        ValueError: its configuration is of no classifier.
    """
    folder = Path(name.partition(":")[2]).expanduser()
    if not (folder / "config.json").is_file():
        raise MissingWeights(
            f"Expected a folder with config.json at {folder.absolute()}, found none. Download the model there (hf "
            "download <owner>/<model> --local-dir FOLDER), or correct the path."
        )
    config = _read(folder / "config.json")
    load = _load_timm if "architecture" in config else _load_transformers
    return ClassifierInfo(
        name=name, title=folder.name, datasets=(), load=lambda: load(folder, config), find=lambda: _weights(folder),
        source=str(folder), licence=OWN,
    )  # fmt: skip


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"Expected {file}, which states the normalisation, found none. Copy it too.") from None
    except ValueError as error:
        raise ValueError(f"Expected JSON in {file}, could not read it ({error}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected a JSON object in {file}, found a {type(found).__name__}. Fetch it again.")
    return found


def _weights(folder: Path) -> Path:
    found = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if found is None:
        raise MissingWeights(f"Expected {' or '.join(FILES)} in {folder}, found neither. Download the model again.")
    return found


def _load_timm(folder: Path, config: dict[str, Any]) -> nn.Module:
    import timm

    from defenses.models.checkpoints import bare_state, load_into
    from defenses.models.networks.normalized import Normalized
    from defenses.models.weights import load_checkpoint

    stated = config.get("pretrained_cfg", config)
    mean, std = stated.get("mean"), stated.get("std")
    if not mean or not std:
        raise ValueError(f"Expected mean and std in {folder / 'config.json'}, found none. Write those of the training.")
    try:
        classes = config.get("num_classes", stated.get("num_classes"))
        network = timm.create_model(config["architecture"], num_classes=classes, **(config.get("model_args") or {}))
    except Exception as error:  # whatever timm says to a name that it does not know
        raise ValueError(f"Expected an architecture of timm in {folder / 'config.json'}: {error}.") from error
    load_into(network, bare_state(load_checkpoint(_weights(folder))))
    return Normalized(network, mean, std)


def _load_transformers(folder: Path, config: dict[str, Any]) -> nn.Module:
    if "auto_map" in config:
        raise ValueError(f"Expected a model without code of its own in {folder}, found auto_map in its config.json.")
    shown = _read(folder / "preprocessor_config.json")
    mean, std = shown.get("image_mean"), shown.get("image_std")
    if shown.get("do_normalize", True) and not (mean and std):
        raise ValueError(f"Expected image_mean and image_std in {folder / 'preprocessor_config.json'}, found none.")
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        raise ValueError(
            f"Expected the library `transformers` to load {folder}, found it not installed. pip install transformers"
        ) from error
    from defenses.models.networks.logits import Logits
    from defenses.models.networks.normalized import Normalized
    from defenses.models.weights import load_checkpoint

    load_checkpoint(_weights(folder))  # as tensors alone, before the library opens it
    try:
        network, report = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # the library's own
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected an image classifier of transformers in {folder}, could not load it: {said}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"Expected all weights of a {type(network).__name__} in {_weights(folder)}, found none for "
            f"{', '.join(missing[:3])}: they would be random."
        )
    plain = Logits(network)
    return Normalized(plain, mean, std) if mean and std and shown.get("do_normalize", True) else plain
