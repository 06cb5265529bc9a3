"""Data sets that a function of the user's makes: `FILE.py:function`, and what @register_dataset stands above."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from bench.datasets.image_set import ImageSet, MissingData
from bench.datasets.info import DatasetInfo
from bench.datasets.own import OWN, info_of
from defenses.own_code import hash_own_code
from defenses.user_file import load_function


def function_info(name: str, function: Callable[..., Any], **facts: Any) -> DatasetInfo:
    """The record of a data set that a function of the user's makes, on first use.

    Args:
        name: what a cell calls it.
        function: () -> (x, y), (x, y, classes) or an `ImageSet`; or split -> that, where it has a parameter `split`.
        facts: title, source, licence; classes, their number or names.

    Raises:
        ValueError: it needs other arguments, or returns something else.
    """
    classes = facts.pop("classes", None)
    read = lru_cache(maxsize=2)(lambda split: _call(name, function, split, classes))

    def content() -> str:
        return hashlib.sha256(repr(sorted(hash_own_code(function).items())).encode()).hexdigest()

    return info_of(name, read, content=content, **{"source": inspect.getsourcefile(function) or OWN, **facts})


def _call(name: str, function: Callable[..., Any], split: str, classes: Any) -> ImageSet:
    from bench.datasets.arrays import image_set_of

    takes = "split" in inspect.signature(function).parameters
    if split != "test" and not takes:
        raise MissingData(f"The data set {name} has test pictures alone: its function takes no argument `split`.")
    made = function(split=split) if takes else function()
    if isinstance(made, ImageSet):
        return made
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise ValueError(
            f"Expected the function of the data set {name} to return (pictures, labels), got {type(made).__name__}."
        )
    return image_set_of(name, *made[:2], classes=made[2] if len(made) == 3 else classes)


def file_info(name: str) -> DatasetInfo:
    """`FILE.py:function`. Raises LookupError where there is no such file or function."""
    return _file_info(name, load_function(name))


@lru_cache(maxsize=8)
def _file_info(name: str, function: Callable[..., Any]) -> DatasetInfo:
    return function_info(name, function, title=name.rpartition(":")[2])
