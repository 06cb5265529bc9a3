"""RobustBench's model zoo, with this project's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from defenses.compat import import_robustbench
from defenses.models.weights import MissingWeights, refuse_page, web_page
from defenses.registry import unknown_name


def load_robustbench(model: str, dataset: str, threat: str, folder: Path) -> nn.Module:
    """A model of RobustBench as RobustBench loads it, which also fetches its file where it is absent.

    Args:
        model: name in RobustBench's zoo.
        dataset: e.g. "cifar10".
        threat: "Linf", "L2" or "corruptions".
        folder: holds <dataset>/<threat>/<model>.pt.

    Raises:
        LookupError: an unknown data set, threat or model, or one that is not a single file.
        MissingWeights: the file can be neither found nor had.
        ValueError: the file is something else.
    """
    drive = drive_id(model, dataset, threat)
    if not drive:
        raise LookupError(
            f"Expected a model of RobustBench that is one file of its own, got {model}: an ensemble, or weights that "
            "timm or torchvision bring. A row could not say which weights it used. Choose another model."
        )
    from robustbench.utils import load_model

    file = folder / dataset / threat / f"{model}.pt"
    here = file.is_file()
    if here:
        refuse_page(file)
    try:
        return load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
    except Exception as error:  # the downloader's own classes, many of them
        page = web_page(file) if file.is_file() else None
        if page is not None:
            file.unlink()
            raise MissingWeights(f"Could not fetch RobustBench's {model} to {file}: the server sent {page}.") from error
        if here:
            raise ValueError(
                f"Expected RobustBench's {model} in {file}, could not read it ({type(error).__name__}). Delete it and "
                "fetch it again."
            ) from error
        raise MissingWeights(
            f"Expected the weights of RobustBench's {model} at {file}, found none, and fetching them failed "
            f"({type(error).__name__}). Put the file there: Google Drive id {drive}."
        ) from error


def drive_id(model: str, dataset: str, threat: str) -> str | None:
    """Google Drive id of a model's single file; None where RobustBench states none (ensembles, other hosts)."""
    found = _zoo_entry(model, dataset, threat).get("gdrive_id")
    return found if isinstance(found, str) else None


def _zoo_entry(model: str, dataset: str, threat: str) -> dict[str, Any]:
    """RobustBench's record of a model. Raises LookupError for an unknown data set, threat or model."""
    import_robustbench()
    from robustbench.model_zoo import model_dicts

    zoo = {(d.value, t.value): models for d, threats in model_dicts.items() for t, models in threats.items()}
    if (dataset, threat) not in zoo:
        raise unknown_name("RobustBench data set and threat", f"{dataset}:{threat}", [":".join(key) for key in zoo])
    if model not in zoo[dataset, threat]:
        raise unknown_name("RobustBench model", model, zoo[dataset, threat])
    return zoo[dataset, threat][model]
