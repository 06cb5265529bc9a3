"""Registries: a name stands for one thing, and an unknown name is answered with the nearest one.

`Registry` holds records (classifiers, score networks, data sets, training recipes), `ClassRegistry` the classes of
defenses and attacks, whose names are the stems of their files unless they are given.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from defenses.watching import tell

T = TypeVar("T")
PYTHON = "*.py:"
"""The prefix of names that a function in a file stands for: <file>.py:<function>."""
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"


class UnknownName(LookupError):
    """A name that stands for nothing. The message holds the nearest match and the list.

    Class attributes:
        remedy: what to do, for the command line.
    """

    remedy = "Correct the name; `bench list` shows what is registered."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not registered: nearest match first, then the sorted list.

    Args:
        kind: what the name should stand for, e.g. "grid".
        name: as it was given.
        known: the names that there are.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"Unknown {kind} {name!r}.{guess} Known: {', '.join(names)}.")


def plain_fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain data.

    Whole numbers in fields of floats become floats, so that sigma=1 and sigma=1.0 are stored alike and have one key.
    """
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


@dataclasses.dataclass
class _Late:
    make: Callable[[], Any]


class Registry(Mapping[str, T]):
    """Name -> what is registered under it: the one shape behind every list of names that a cell can use.

    An item has an attribute `name`. `registry[name]` also answers for names made on the spot, such as
    "file:<architecture>:<path>", where a resolver of that prefix is registered; iteration, `len` and `in` speak of
    the registered names alone. Names come in the order of registration.

    Attributes:
        kind: what the names stand for, in error messages, e.g. "classifier".
        patterns: the names that resolvers answer for, as a reader would write them.
        late: registers what installed packages bring; called once, when a name is first asked for.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.patterns: tuple[str, ...] = ()
        self.late: Callable[[], None] | None = None
        self._items: dict[str, T] = {}
        self._resolvers: dict[str, Callable[[str], T]] = {}

    def register(self, item: T) -> T:
        """Make `item` known under its name and return it: a call, or a decorator of classes.

        Raises:
            ValueError: the name is taken.
        """
        name = self._name_of(item)
        if name in self:
            raise ValueError(f"Expected a new {self.kind} name, got {name!r}, which is registered. Choose another.")
        self._items[name] = item
        tell(self, name)
        return item

    def register_late(self, name: str, make: Callable[[], T]) -> None:
        """Make a name known whose item is made when it is first asked for. Raises ValueError when the name is taken."""
        if name in self:
            raise ValueError(f"Expected a new {self.kind} name, got {name!r}, which is registered. Choose another.")
        self._items[name] = _Late(make)  # type: ignore[assignment]
        tell(self, name)

    def _made(self, name: str) -> T:
        item = self._items[name]
        if isinstance(item, _Late):
            item = self._items[name] = item.make()
        return item

    def resolve(self, prefix: str, resolver: Callable[[str], T], *patterns: str) -> None:
        """Let `resolver(name)` answer for every name that begins with `prefix`.

        Args:
            prefix: with its colon, e.g. "file:".
            resolver: whole name -> item; raises LookupError for a name that it cannot read.
            patterns: for error messages, e.g. "file:<architecture>:<path>".
        """
        self._resolvers[prefix] = resolver
        self.patterns += patterns

    @contextmanager
    def temporarily(self, items: Iterable[T]) -> Iterator[None]:
        """Register `items` while the context lasts. Raises ValueError for a name that is taken."""
        added: list[str] = []
        try:
            for item in items:
                self.register(item)
                added.append(self._name_of(item))
            yield
        finally:
            for name in added:
                self._items.pop(name, None)

    def _name_of(self, item: T) -> str:
        return item.name  # type: ignore[attr-defined]

    def _known(self) -> dict[str, T]:
        """The registered items; a subclass may fill them on first use."""
        self._join()
        return self._items

    def _join(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            late()

    def present(self) -> list[T]:
        """What is registered now, without asking installed packages."""
        return list(self._items.values())

    def __getitem__(self, name: str) -> T:
        """The item `name`. Raises UnknownName."""
        known = self._known()
        if name in known:
            return self._made(name)
        for prefix, resolver in self._resolvers.items():
            if name.startswith(prefix) or (prefix == PYTHON and PYTHON[1:] in name):
                return resolver(name)
        raise unknown_name(self.kind, name, [*self, *self.patterns])

    def get(self, name: str, default: Any = None) -> Any:
        """The item `name`, else `default`."""
        try:
            return self[name]
        except UnknownName:
            return default

    def __delitem__(self, name: str) -> None:
        """Forget a registered item, e.g. to register it again in a notebook. Raises UnknownName."""
        if name not in self:
            raise unknown_name(self.kind, name, self._known())
        del self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())


def check_name(kind: str, name: Any) -> str:
    """`name` itself, if it can be one.

    Raises:
        ValueError: it is no text, or has letters in it that a name cannot have; the message proposes another.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        fixed = re.sub(r"[^A-Za-z0-9_.+-]+", "_", str(name)).strip("_.+-") or f"my_{kind.split()[0]}"
        raise ValueError(
            f"Expected a {kind} name of letters, digits and _ . + - without spaces, got {name!r}. Try {fixed!r}: "
            f'rename the file, or write @register("{fixed}").'
        )
    return name


def _file_of(cls: type) -> Path:
    """The file that defines a class; for one that a notebook or a session defines, a name made of the class's."""
    file = getattr(sys.modules[cls.__module__], "__file__", None)
    return Path(file or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()).resolve()


class ClassRegistry(Registry[type[T]], Generic[T]):
    """Name -> class. The name is the stem of the class's file, or one that is given. Names are sorted.

    The modules of a package are imported the first time that a name is asked for.
    """

    def __init__(self, kind: str, package: str) -> None:
        """`package`: dotted name of the package that holds the files."""
        super().__init__(kind)
        self.package = package
        self._loaded = False
        self._files: dict[str, Path] = {}

    def register(self, cls: type[T], name: str | None = None) -> type[T]:
        """Class decorator: register `cls`, which gets the attribute `name`, and its title where it has none.

        The same class again, from a file that is read twice, replaces the first.

        Args:
            cls: the class.
            name: None is the stem of its file.

        Raises:
            ValueError: another class has the name, it cannot be one, or the class states no source.
        """
        name = check_name(self.kind, self._name_of(cls) if name is None else name)
        if not getattr(cls, "source", ""):
            raise ValueError(
                f'Expected {cls.__name__} to state its source. Write `source: ClassVar[str] = "paper, equation"` in it.'
            )
        self._check_free(name, cls)
        cls.name = name  # type: ignore[attr-defined]
        if not getattr(cls, "title", ""):
            cls.title = name.replace("_", " ")  # type: ignore[attr-defined]
        self._items[name], self._files[name] = cls, _file_of(cls)
        tell(self, name)
        return cls

    def _check_free(self, name: str, cls: type[T]) -> None:
        """Raise ValueError where another class has the name: it would give its number to a stranger's cells."""
        file, shipped = _file_of(cls), Path(importlib.import_module(self.package).__path__[0], f"{name}.py")
        rename = f'Rename the file, or write @register("another_{name}").'
        if shipped.is_file() and file != shipped.resolve():
            raise ValueError(
                f"Expected a new name for the {self.kind} in {file}, got {name!r}, which ships with this package. "
                f"{rename}"
            )
        other, taken = self._items.get(name), self._files.get(name)
        if other is None or (other.__qualname__ == cls.__qualname__ and taken == file):
            return
        if taken == file:
            raise ValueError(
                f"Two {self.kind} classes in {file.name}: {other.__name__} and {cls.__name__}. "
                f'Both are called {name!r}: give one another name, @register("another_{name}").'
            )
        raise ValueError(
            f"Expected a new name for the {self.kind} in {file}, got {name!r}, which {taken} has. Rename one "
            f'of the two files, or write @register("another_{name}").'
        )

    def make(self, name: str, params: Mapping[str, Any] | None = None) -> T:
        """Instance of the class `name` with the fields `params` (the inverse of storing them)."""
        return self[name](**(params or {}))

    def _name_of(self, item: type[T]) -> str:
        file = _file_of(item)
        return file.parent.name if file.name == "__init__.py" else file.stem

    def _known(self) -> dict[str, type[T]]:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, self.package + "."):
                if not module.ispkg:
                    importlib.import_module(module.name)
        return super()._known()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known()))


class ModuleRegistry(Registry[T]):
    """Name -> what the module of that name in a package holds; a module is imported when its own name is asked for.

    Modules that begin with an underscore are not listed. Names are sorted.
    """

    def __init__(self, kind: str, package: str, read: Callable[[ModuleType], T], besides: Iterable[str] = ()) -> None:
        """An empty registry.

        Args:
            kind: what the names stand for, in error messages.
            package: dotted name.
            read: module -> item.
            besides: modules of the package that hold no item.
        """
        super().__init__(kind)
        self.package, self.read, self.besides = package, read, frozenset(besides)

    def __getitem__(self, name: str) -> T:
        """The item `name`, read once. Raises UnknownName."""
        self._join()
        if name not in self._items and name in self._modules():
            self._items[name] = self.read(importlib.import_module(f"{self.package}.{name}"))
        return super().__getitem__(name)

    def add(self, name: str, item: T) -> None:
        """Make an item that no module of the package holds known. Raises ValueError for a name that is taken."""
        if name in self:
            raise ValueError(f"Expected a new {self.kind} name, got {name!r}, which is registered. Choose another.")
        self._items[check_name(self.kind, name)] = item
        tell(self, name)

    def __contains__(self, name: object) -> bool:
        self._join()
        return name in self._items or name in self._modules()

    def __iter__(self) -> Iterator[str]:
        self._join()
        return iter(sorted({*self._modules(), *self._items}))

    def __len__(self) -> int:
        self._join()
        return len({*self._modules(), *self._items})

    def _modules(self) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__))
        return [name for name in names if not name.startswith("_") and name not in self.besides]
