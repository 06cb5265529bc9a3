"""Plain data: what the fields of a defense or an attack may hold, so that a database can keep it and make it again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any


def check_plain(what: str, value: Any) -> None:
    """Raise ValueError for a value that is not plain data, which a database can keep and another run can make again.

    Args:
        what: the field, for the message.
        value: None, a bool, number or text, or a tuple, list or mapping of such.
    """
    for place, found in _not_plain(value):
        raise ValueError(
            f"Expected plain data (numbers, texts, True, False, None, tuples of them) in the field {what}{place}, "
            f"found {name_type(found)}. Keep a name, a path or a number there, and make the object of it in the method "
            "that uses it."
        )


def _not_plain(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_plain(inner, f"{place}[{key!r}]")
            if not isinstance(key, str):
                yield place, key
    elif isinstance(value, (tuple, list)):
        for number, inner in enumerate(value):
            yield from _not_plain(inner, f"{place}[{number}]")
    elif not (value is None or isinstance(value, (bool, int, float, str)) or _is_number(value)):
        yield place, value


def _is_number(value: Any) -> bool:
    """Whether a value is a numpy scalar."""
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def name_type(value: Any) -> str:
    """What a value is, with its article: "an int", "a function"."""
    name = "function" if inspect.isfunction(value) else type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
