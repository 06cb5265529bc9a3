"""Fields of defenses, attacks and cells: held to their annotated types, and plain data whatever library made them."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from functools import cache, wraps
from typing import Any, Literal, Union

LARGEST = 2**53  # whole numbers below it are the same in JSON, SQL and every language
FLOAT32 = 3.4e38  # numbers beyond it are infinite where networks compute
SHOWN = 100  # letters of a wrong value in a message


class _Misfit(Exception):
    """A value is not what its type says. The argument says what was expected."""


class _NotPlain(Exception):
    """A value that no database can keep. The argument names it."""


class TypedFields:
    """Base of dataclasses whose fields are checked before anything else looks at them; see `check_fields`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = _after_check(cls.__dict__["__post_init__"])  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        check_fields(self)


def _after_check(own: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(own)
    def post_init(self: Any) -> None:
        if type(self).__post_init__ is post_init:  # not again in every base class
            check_fields(self)
        own(self)

    return post_init


def check_fields(record: Any, besides: Collection[str] = ()) -> None:
    """Hold the fields of a dataclass to their annotations, and make plain Python data of them.

    Numpy and torch scalars become the Python number that they stand for (np.float32(0.1) is 0.1), arrays and lists in
    fields of tuples become tuples, whole numbers in fields of floats become floats.

    Args:
        record: an instance; its fields are replaced where they change.
        besides: fields that are left alone.

    Raises:
        ValueError: a field of another type, a number that is not finite, an empty word, or something that is no plain
            data; the message names the field.
    """
    owner: Any = type(record)
    for field in dataclasses.fields(record):
        if not field.init or field.name in besides:
            continue
        value = getattr(record, field.name)
        try:
            fitted = _fit(value, _hint(owner, field.name), field.default == "")
        except _NotPlain as stranger:
            raise ValueError(
                "Expected plain data (numbers, texts, True, False, None, tuples of them) in the field "
                f"{field.name} of {owner.__name__}, found {stranger}. Keep a name, a path or a number there, and make "
                "the object of it in the method that uses it."
            ) from None
        except _Misfit as misfit:
            raise ValueError(_sentence(owner.__name__, field.name, str(misfit), value)) from None
        if fitted is not value:
            object.__setattr__(record, field.name, fitted)


def check_range(record: Any, low: float, high: float | None = None, *names: str) -> None:
    """Raise ValueError where a field that is given lies outside [low, high] (None: no upper end)."""
    for name in names:
        value = getattr(record, name)
        if value is not None and not low <= value:
            raise ValueError(f"Expected {name} >= {low:g} of {type(record).__name__}, got {value}.")
        if value is not None and high is not None and value > high:
            raise ValueError(f"Expected {name} <= {high:.10g} of {type(record).__name__}, got {value}.")


def _sentence(owner: str, name: str, expected: str, value: Any) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    if expected.startswith("among "):
        return f"Expected {name} {expected}, got {shown}."
    quoted = isinstance(value, str) and "number" in expected and re.fullmatch(r"[-+./\deE ]*\d[-+./\deE ]*", value)
    remedy = " Write the number without quotes." if quoted else ""
    return f"Expected {name} of {owner} to be {expected}, got {shown}.{remedy}"


@cache
def _hint(cls: Any, name: str) -> Any:
    """The annotation of a field, evaluated where it was written; Any where it cannot be."""
    for base in cls.__mro__:
        found = inspect.get_annotations(base).get(name)
        if isinstance(found, str):
            module = sys.modules.get(base.__module__)
            try:
                return eval(found, {**vars(typing), **vars(module)} if module else vars(typing), dict(vars(base)))
            except Exception:  # a name that only a type checker knows
                return Any
        if found is not None:
            return found
    return Any


def _fit(value: Any, hint: Any, may_be_empty: bool = False) -> Any:
    """The value as plain data of the type `hint`; raises _Misfit."""
    value = _plain(value)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _fit_one_of(value, typing.get_args(hint), may_be_empty)
    if origin is Literal:
        return _fit_choice(value, typing.get_args(hint))
    if origin is tuple:
        return _fit_tuple(value, typing.get_args(hint))
    if hint in (None, type(None)):
        if value is not None:
            raise _Misfit("None")
        return None
    if hint is str:
        return _fit_text(value, may_be_empty)
    read = _READERS.get(hint) if isinstance(hint, type) else None
    return read(value) if read else _finite(value)


def _fit_one_of(value: Any, hints: tuple[Any, ...], may_be_empty: bool) -> Any:
    expected = []
    for hint in hints:
        try:
            return _fit(value, hint, may_be_empty)
        except _Misfit as misfit:
            expected.append(str(misfit))
    raise _Misfit(" or ".join(dict.fromkeys(expected)))


def _fit_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise _Misfit(f"among {', '.join(map(str, choices))}")
    return value


def _fit_tuple(value: Any, members: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _Misfit("several values in brackets")
    if len(members) == 2 and members[1] is ... and typing.get_origin(members[0]) is not tuple:
        try:
            fitted = tuple(_fit(one, members[0]) for one in value)
        except _Misfit as misfit:
            raise _Misfit(f"several values in brackets, each {misfit}") from None
    else:
        fitted = tuple(map(_finite, value))
    return value if isinstance(value, tuple) and _same(fitted, value) else fitted


def _finite(value: Any) -> Any:
    """Plain data whose numbers JSON can hold; raises _Misfit."""
    if isinstance(value, numbers.Real):
        large = isinstance(value, int) and abs(value) >= LARGEST
        if large or not math.isfinite(value):
            raise _Misfit("made of finite numbers")
    elif not isinstance(value, str) and value is not None:
        for inner in value.values() if isinstance(value, Mapping) else value:
            _finite(inner)
    return value


def _same(fitted: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
    return all(new is old for new, old in zip(fitted, given, strict=True))


def _fit_text(value: Any, may_be_empty: bool) -> str:
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        raise _Misfit("a word")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value):
        raise _Misfit("a word without control letters")
    return str(value)


def _fit_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Misfit("True or False")
    return value


def _fit_whole(value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Misfit("a whole number")
    if abs(value) >= LARGEST:
        raise _Misfit(f"a whole number below {LARGEST}")
    return value


def _fit_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not abs(float(value)) <= FLOAT32:
        raise _Misfit("a finite number")
    return float(value)


_READERS: dict[type, Callable[[Any], Any]] = {bool: _fit_bool, int: _fit_whole, float: _fit_number}


def _unwrap(value: Any) -> Any:
    """The Python number behind a scalar of numpy or torch, the nested lists behind an array; else the value."""
    if not (hasattr(value, "dtype") and hasattr(value, "tolist") and hasattr(value, "shape")):
        return value
    plain = value.tolist()
    short = str(value.dtype).removeprefix("torch.") in ("float32", "float16", "bfloat16")
    return _written(plain, type(value)) if short and isinstance(plain, float) and value.shape == () else plain


def _written(value: float, kind: Callable[[float], Any]) -> float:
    """The number that a person wrote where a short float holds it: 0.1 behind np.float32(0.1), 8/255 behind its."""
    if not math.isfinite(value):
        return value
    near = float(Fraction(value).limit_denominator(1000))
    try:
        return near if float(kind(near)) == value else float(str(kind(value)))
    except (TypeError, ValueError):  # a tensor, which does not say its digits
        return near if math.isclose(near, value, rel_tol=1e-7) else value


def _plain(value: Any) -> Any:
    """Python's own data: None, numbers, words, and tuples, lists and mappings of them; raises _NotPlain."""
    value = _unwrap(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Real):
        return value
    if isinstance(value, (tuple, list)):
        fitted = tuple(map(_plain, value))
        if _same(fitted, tuple(value)):
            return value
        return list(fitted) if isinstance(value, list) else fitted
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _Misfit("a mapping whose keys are words")
        fitted_values = {key: _plain(one) for key, one in value.items()}
        same = all(fitted_values[key] is value[key] for key in value)
        return value if same else fitted_values
    name = "function" if inspect.isfunction(value) else type(value).__name__
    raise _NotPlain(f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}")
