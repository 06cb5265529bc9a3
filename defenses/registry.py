"""Registries: a name stands for one class, and the name is the stem of the file that defines it."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(LookupError):
    """A name that stands for nothing. The message holds the nearest match and the list."""

    remedy = "Correct the name; `bench list` shows what is registered."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not registered: nearest match first, then the sorted list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"Unknown {kind} {name!r}.{guess} Known: {', '.join(names)}.")


def plain_fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain data. Whole numbers in fields of floats become floats, so that sigma=1 and
    sigma=1.0 are stored alike and have one key."""
    named = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in dataclasses.fields(record)}
    floats = {name for name, kind in named.items() if kind.split(" | ")[0] == "float"}
    values = dataclasses.asdict(record)
    return {k: float(v) if k in floats and type(v) is int else v for k, v in values.items()}


def field_docs(cls: type) -> dict[str, str]:
    """What each field of a dataclass means: the entries of the section `Attributes:` of its docstring.

    A field that a base class has is described there, or again where the meaning is narrower. An entry is a line
    `name: meaning, unit, range` and what is indented below it.

    Args:
        cls: a dataclass.

    Returns:
        Name -> description on one line; fields without one are missing.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, section = text.partition("\nAttributes:\n")
        name = ""
        for line in section.splitlines():
            if line and not line.startswith(" "):
                break
            entry = re.match(r" {4}(\w+): (.*)", line)
            if entry:
                name = entry[1]
                found[name] = entry[2].strip()
            elif name and line.strip():
                found[name] += " " + line.strip()
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if field.name in found}


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name -> class. Modules of `package` are imported the first time that a name is asked for.

    kind: what the names stand for, in error messages. package: dotted name of the package that holds one file a class.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, cls: type[T]) -> type[T]:
        """Class decorator: register `cls` under the stem of its file, its `name`, which is also its title where
        it has none. A taken name is refused."""
        module = sys.modules[cls.__module__]
        name = Path(module.__file__ or cls.__module__).stem
        other = self._classes.get(name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise ValueError(
                f"Two {self.kind} classes in {name}.py: {other.__name__} and {cls.__name__}. "
                f"One {self.kind}, one file: its name is the file's stem."
            )
        cls.name = name  # type: ignore[attr-defined]
        if not getattr(cls, "title", ""):
            cls.title = name.replace("_", " ")  # type: ignore[attr-defined]
        self._classes[name] = cls
        return cls

    def make(self, name: str, params: Mapping[str, Any] | None = None) -> T:
        """Instance of the class `name` with the fields `params` (the inverse of storing them)."""
        return self[name](**(params or {}))

    def _load(self) -> dict[str, type[T]]:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, self.package + "."):
                if not module.ispkg:
                    importlib.import_module(module.name)
        return self._classes

    def __getitem__(self, name: str) -> type[T]:
        classes = self._load()
        if name not in classes:
            raise unknown_name(self.kind, name, classes)
        return classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())


Decorator = Callable[[type[T]], type[T]]
