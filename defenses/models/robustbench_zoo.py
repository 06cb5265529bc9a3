"""What RobustBench's model zoo says of its models, with this project's errors."""

from __future__ import annotations

from typing import Any

from defenses.compat import import_robustbench
from defenses.registry import unknown_name


def drive_id(model: str, dataset: str, threat: str) -> str | None:
    """Google Drive id of a model's single file; None where RobustBench states none (ensembles, other hosts)."""
    found = zoo_entry(model, dataset, threat).get("gdrive_id")
    return found if isinstance(found, str) else None


def zoo_entry(model: str, dataset: str, threat: str) -> dict[str, Any]:
    """RobustBench's record of a model. Raises LookupError for an unknown data set, threat or model."""
    import_robustbench()
    from robustbench.model_zoo import model_dicts

    zoo = {(d.value, t.value): models for d, threats in model_dicts.items() for t, models in threats.items()}
    if (dataset, threat) not in zoo:
        raise unknown_name("RobustBench data set and threat", f"{dataset}:{threat}", [":".join(key) for key in zoo])
    if model not in zoo[dataset, threat]:
        raise unknown_name("RobustBench model", model, zoo[dataset, threat])
    return zoo[dataset, threat][model]
