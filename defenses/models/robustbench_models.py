"""RobustBench's models, whose files are checked before RobustBench opens them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from defenses.compat import import_robustbench
from defenses.models.download import fetch
from defenses.models.sources import Source, robustbench_parts, robustbench_source
from defenses.models.weights import MissingWeights, load_checkpoint


def load_robustbench(name: str) -> nn.Module:
    """A model of RobustBench as RobustBench loads it, from a file that is fetched where it is absent.

    RobustBench may be told by its environment to run code that a file holds. So the file's sha256 is compared, and all
    of it is read as tensors and plain containers, before RobustBench opens it.

    Args:
        name: "robustbench:<dataset>:<threat>:<model>".

    Raises:
        LookupError: an unknown data set, threat or model, or one that is not a single file.
        MissingWeights: the file can be neither found nor had.
        ValueError: the file is something else.
    """
    source = robustbench_source(name)
    _, dataset, threat, model = robustbench_parts(name)
    if not source.at:
        raise LookupError(
            f"Expected a model of RobustBench that is one file of its own, got {model}: an ensemble, or weights that "
            "timm or torchvision bring. A row could not say which weights it used. Choose another model."
        )
    import_robustbench()
    file = _find(source)
    load_checkpoint(file, source.known_sha256())
    source.check(file)
    from robustbench.utils import load_model

    try:
        return load_model(model, model_dir=file.parents[2], dataset=dataset, threat_model=threat)
    except Exception as error:  # whatever its networks and torch raise
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"Expected RobustBench's {model} in {file}, could not read it ({type(error).__name__}: {said}). Delete it "
            "and fetch it again."
        ) from error


def untrained(name: str) -> nn.Module:
    """The architecture of a model of RobustBench, without its weights.

    Args:
        name: "robustbench:<dataset>:<threat>:<model>".

    Raises:
        LookupError: an unknown data set, threat or model.
    """
    from defenses.models.robustbench_zoo import zoo_entry

    _, dataset, threat, model = robustbench_parts(name)
    made = zoo_entry(model, dataset, threat)["model"]()
    assert isinstance(made, nn.Module)
    return made


def _find(source: Source) -> Path:
    try:
        return source.find()
    except MissingWeights:
        return fetch(source)
