"""Evaluation of adversarial-purification defenses: cells, attacks, the judge, the store, the report.

The door for Python (docs/python.md); nothing here imports torch until it is used:

    import bench

    result = bench.evaluate(model, x, y, defense=DiffPureSDE(t=0.1), score="cifar10_small", epsilon=8 / 255)
    frame = bench.run("my_grid.py", db="results.sqlite").frame
    frame = bench.results("results.sqlite")
    bench.load_plugin("my_defenses.py")
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from defenses.compat import alias_autoattack

if TYPE_CHECKING:
    from bench.api.evaluation import EvaluationFailed, evaluate
    from bench.api.grid_run import GridResult, run
    from bench.api.reading import results
    from bench.api.result import Result
    from bench.datasets import register_dataset
    from bench.plugins import load_plugin
    from defenses.models.classifiers import register_classifier
    from defenses.models.scores import register_score

_DOOR = {
    "evaluate": "bench.api.evaluation",
    "EvaluationFailed": "bench.api.evaluation",
    "run": "bench.api.grid_run",
    "GridResult": "bench.api.grid_run",
    "results": "bench.api.reading",
    "Result": "bench.api.result",
    "load_plugin": "bench.plugins",
    "register_classifier": "defenses.models.classifiers",
    "register_dataset": "bench.datasets",
    "register_score": "defenses.models.scores",
}

__all__ = [
    "EvaluationFailed",
    "GridResult",
    "Result",
    "evaluate",
    "load_plugin",
    "register_classifier",
    "register_dataset",
    "register_score",
    "results",
    "run",
]


class _CallableModule(ModuleType):
    """A module that is called like the function of its name: `bench.evaluate` and `bench.run` are both."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_DOOR[name]), name)(*args, **options)


class _Package(ModuleType):
    """This package. Python's import system sets each submodule as an attribute, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DOOR and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name not in _DOOR:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    if name in ("evaluate", "run"):  # a module as well
        return importlib.import_module(f"bench.{name}")
    return getattr(importlib.import_module(_DOOR[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
alias_autoattack()  # so that `from robustbench.utils import load_model` works
