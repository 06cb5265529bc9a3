"""Class attributes that the fields of an instance decide, such as whether a defense is stochastic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class _PerInstance(Generic[T]):
    def __init__(self, on_class: T, of_instance: Callable[[Any], T]) -> None:
        self.on_class, self.of_instance = on_class, of_instance

    def __get__(self, instance: Any, owner: type) -> T:
        return self.on_class if instance is None else self.of_instance(instance)


def per_instance(on_class: T, of_instance: Callable[[Any], T]) -> T:
    """The value of a class attribute that is `on_class` on the class and `of_instance(self)` on an instance.

    For example `stochastic: ClassVar[bool] = per_instance(True, lambda self: not self.fixed_noise)`.
    """
    return cast(T, _PerInstance(on_class, of_instance))


def decided_by_fields(cls: type, name: str) -> bool:
    """Whether the class attribute `name` was made by `per_instance`."""
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    return isinstance(found, _PerInstance)
