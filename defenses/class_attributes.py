"""Class attributes of a defense or an attack: which there are, and whether a class states them right."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

NEAR = 0.82  # how alike two names must be for one to be the other misspelt
LATER = ("name", "title")  # which @register sets


def class_attributes(cls: type) -> dict[str, str]:
    """Names of the class attributes that the bases of a class declare -> what their annotation says of the type."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__[1:]):
        for name, kind in parent.__dict__.get("__annotations__", {}).items():
            text = kind if isinstance(kind, str) else str(kind).removeprefix("typing.")
            if text.startswith("ClassVar["):
                found.setdefault(name, text.removeprefix("ClassVar[").removesuffix("]"))
    return found


def check_attributes(cls: Any, attributes: Mapping[str, str]) -> None:
    """Raise ValueError where a class misspells a class attribute, leaves one out, or gives it another type.

    Args:
        cls: a dataclass.
        attributes: its `class_attributes`.
    """
    _check_spelling(cls, attributes)
    for name, text in attributes.items():
        _check_attribute(cls, name, text)


def _check_spelling(cls: type, attributes: Mapping[str, str]) -> None:
    """Refuse names that are nearly those of class attributes: what is misspelt has no effect."""
    fields = {field.name for field in dataclasses.fields(cls)}
    known = {name for base in cls.__mro__[1:] for name in (*vars(base), *base.__dict__.get("__annotations__", {}))}
    for name in {*vars(cls), *cls.__dict__.get("__annotations__", {})}:
        if name.startswith("_") or name in known or inspect.isfunction(vars(cls).get(name)):
            continue
        near = difflib.get_close_matches(name, [a for a in attributes if a not in vars(cls)], n=1, cutoff=NEAR)
        plural = near and {f"{name}s", name} >= {near[0]}
        if near and not (name in fields and plural):
            raise ValueError(
                f"Unknown class attribute {name!r} of {cls.__name__}. Did you mean {near[0]!r}? A field or an "
                "attribute of your own needs a name that is less like it."
            )


def _check_attribute(cls: type, name: str, text: str) -> None:
    if name in LATER:
        return
    if not hasattr(cls, name):
        raise ValueError(_missing(cls, name, text))
    value = getattr(cls, name)
    kinds = {"bool": bool, "int": int, "str": str}
    if text in kinds and type(value) is not kinds[text]:
        raise ValueError(f"Expected {name} of {cls.__name__} to be {_KINDS[text]}, got {value!r}.")
    if text.startswith("tuple[") and not isinstance(value, tuple):
        one = f"({value!r},)" if isinstance(value, str) else repr(tuple(value) if isinstance(value, list) else value)
        raise ValueError(f"Expected {name} of {cls.__name__} to be a tuple, got {value!r}. Write {name} = {one}.")


_KINDS = {"bool": "True or False", "int": "a whole number", "str": "a text"}
_MISSING = {
    "source": 'to state its source. Write `source: ClassVar[str] = "paper, equation"` in it.',
    "stochastic": (
        "to state whether two answers for one image may differ. Write `stochastic: ClassVar[bool] = True` (or False)."
    ),
}


def _missing(cls: type, name: str, text: str) -> str:
    return f"Expected {cls.__name__} " + _MISSING.get(
        name, f"to state {name}. Write `{name}: ClassVar[{text}] = ...` in it."
    )
