"""Values of a TOML file as fields of a dataclass: checked against the field's type, lists swept."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bench.epsilon import parse_epsilon
from defenses.registry import unknown_name
from defenses.user_error import UserFileError

WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "nothing"}


def sweep(cls: Any, values: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a class's fields.

    Args:
        cls: a dataclass.
        values: field -> its value, or a list of values where the field holds none.
        place: of the table, for messages.

    Raises:
        UserFileError: an unknown field, or a value of another type; the message names the key.
    """
    hints = get_type_hints(cls)
    known, kind = [field.name for field in dataclasses.fields(cls)], f"field of {getattr(cls, 'name', 'a threat')}"
    for name in values:
        if name not in known:
            raise UserFileError(f"{place}.{name}: {unknown_name(kind, name, known)}")
    choices = {name: _choices(value, hints[name], f"{place}.{name}") for name, value in values.items()}
    for chosen in product(*choices.values()):
        yield dict(zip(choices, chosen, strict=True))


def convert(value: Any, hint: Any, place: str) -> Any:
    """A value as a field of this type holds it.

    Raises:
        UserFileError: it is of another type.
    """
    if not _fits(value, hint):
        found = f"a list of {len(value)}" if isinstance(value, list) else repr(value)
        raise UserFileError(f"{place}: expected {_words(hint)}, found {found}.")
    return _converted(value, hint)


def _choices(value: Any, hint: Any, place: str) -> list[Any]:
    if isinstance(value, list) and not _fits(value, hint):
        if not value:
            raise UserFileError(f"{place}: expected {_words(hint)} or a list of such, found an empty list.")
        return [convert(inner, hint, f"{place}[{number}]") for number, inner in enumerate(value)]
    return [convert(value, hint, place)]


def _fits(value: Any, hint: Any) -> bool:
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if kind is Literal:
        return value in get_args(hint)
    if kind is tuple:
        inner = get_args(hint)
        alike = inner[-1:] == (Ellipsis,)
        long = isinstance(value, list) and (alike or len(value) == len(inner))
        return long and all(_fits(one, inner[0] if alike else inner[k]) for k, one in enumerate(value))
    if hint is float:
        return (isinstance(value, (int, float)) and not isinstance(value, bool)) or _is_fraction(value)
    if hint in (int, bool, str):
        return type(value) is hint
    return hint is not type(None)


def _is_fraction(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_epsilon(value) is not None
    except ValueError:
        return False


def _converted(value: Any, hint: Any) -> Any:
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return _converted(value, next(one for one in get_args(hint) if _fits(value, one)))
    if isinstance(value, list):
        inner = get_args(hint)
        hints = [inner[0]] * len(value) if inner[-1:] == (Ellipsis,) else list(inner)
        return tuple(_converted(one, kind) for one, kind in zip(value, hints, strict=True)) if inner else tuple(value)
    return float(parse_epsilon(value) or 0) if hint is float and isinstance(value, str) else value


def _words(hint: Any) -> str:
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(_words(one) for one in get_args(hint) if one is not type(None))
    one_of = "one of " + ", ".join(map(repr, get_args(hint))) if kind is Literal else WORDS.get(hint, str(hint))
    return "a list" if kind is tuple else one_of
