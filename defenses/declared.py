"""What a class must state before it gets a name: mistakes that would show late, or never, told in a sentence."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from defenses.class_attributes import check_attributes, class_attributes
from defenses.plain_data import check_plain

DATACLASS = "@dataclass(frozen=True, kw_only=True)"
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
    check_attributes(cls, own)


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
        by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        named |= {parameter.name: None} if by_name else {}
        given += [] if by_name else [None]
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
