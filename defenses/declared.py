"""What a class must state before it gets a name: mistakes that would show late, or never, told in a sentence."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from defenses.plain_data import check_plain

DATACLASS = "@dataclass(frozen=True, kw_only=True)"
NEAR = 0.82  # how alike two names must be for one to be the other misspelt
LATER = ("name", "title")  # which @register sets
PAGE = "docs/your-own.md shows a whole one."


def check_class(cls: Any, base: type, kind: str) -> None:
    """Raise ValueError for a class that is no complete frozen dataclass of its kind; the message says what is missing.

    Args:
        cls: what is to be registered.
        base: what it must be a subclass of.
        kind: "defense" or "attack".
    """
    if not inspect.isclass(cls):
        raise ValueError(f"Expected @register above a class, got {cls!r}. {PAGE}")
    if not issubclass(cls, base):
        parents = ", ".join(parent.__name__ for parent in cls.__bases__ if parent is not object) or "nothing"
        raise ValueError(
            f"Expected {cls.__name__} to be a subclass of {base.__name__}, found one of {parents}. Defenses are "
            "registered with `from defenses import register`, attacks with `from bench.attacks import register`."
        )
    _check_dataclass(cls)
    own = class_attributes(cls)
    _check_fields(cls, own)
    _check_methods(cls)
    _check_spelling(cls, own)
    for name, text in own.items():
        _check_attribute(cls, name, text)


def class_attributes(cls: type) -> dict[str, str]:
    """Names of the class attributes that the bases of a class declare -> what their annotation says of the type."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__[1:]):
        for name, kind in parent.__dict__.get("__annotations__", {}).items():
            text = kind if isinstance(kind, str) else str(kind).removeprefix("typing.")
            if text.startswith("ClassVar["):
                found.setdefault(name, text.removeprefix("ClassVar[").removesuffix("]"))
    return found


def _check_dataclass(cls: type) -> None:
    if "__dataclass_params__" not in cls.__dict__:
        raise ValueError(
            f"Expected {cls.__name__} to be a dataclass. Write {DATACLASS} between @register and the class."
        )
    if not cls.__dict__["__dataclass_params__"].frozen:
        raise ValueError(f"Expected {cls.__name__} to be frozen. Write {DATACLASS}.")


def _check_fields(cls: type, attributes: Mapping[str, str]) -> None:
    for field in dataclasses.fields(cls):
        if field.name in attributes:
            raise ValueError(
                f"Expected {field.name} of {cls.__name__} as a class attribute, found a field. Write "
                f"`{field.name}: ClassVar[{attributes[field.name]}] = ...`."
            )
        method = next((base for base in cls.__mro__[1:] if callable(base.__dict__.get(field.name))), None)
        if method is not None:
            raise ValueError(
                f"Expected another name for the field {field.name} of {cls.__name__}: {method.__name__} has a method "
                "that is called so."
            )
        if field.default is not dataclasses.MISSING:
            check_plain(f"{field.name} of {cls.__name__}", field.default)


def _check_methods(cls: type) -> None:
    own = [name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("__")]
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        found = f"found {', '.join(own)}" if own else "found no method"
        raise ValueError(f"Expected {cls.__name__} to define {name}{_untyped(getattr(cls, name))}, {found}. {PAGE}")
    for base in cls.__mro__[1:]:
        for name, value in vars(base).items():
            if getattr(value, "__isabstractmethod__", False):
                _check_signature(cls, name, value)


def _check_signature(cls: type, name: str, wanted: Any) -> None:
    """Compare the signature of a method with that of the abstract one: can it be called alike?"""
    method = inspect.getattr_static(cls, name)
    if not inspect.isfunction(method):
        return
    given: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in inspect.signature(wanted).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[parameter.name] = None
        else:
            given.append(None)
    try:
        inspect.signature(method).bind(*given, **named)
    except TypeError as error:
        raise ValueError(
            f"Expected {cls.__name__}.{name}{_untyped(wanted)}, found {name}{_untyped(method)}: {error}. {PAGE}"
        ) from error


def _untyped(function: Any) -> inspect.Signature:
    """A signature without annotations."""
    found = inspect.signature(function)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return found.replace(parameters=plain, return_annotation=inspect.Signature.empty)


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
