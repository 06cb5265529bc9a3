"""Plug-ins of installed packages: entry points, loaded when a registry is first asked for a name that it may hold."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from defenses.registry import Registry
from defenses.watching import forget, registrations

PREFIX = "purification_bench."
KINDS = ("defenses", "attacks", "classifiers", "scores", "datasets", "grids")
Adopt = Callable[[str, Any], None]


class PluginWarning(UserWarning):
    """A plug-in that could not be loaded; everything else works without it."""


def installed_plugins(kind: str) -> tuple[EntryPoint, ...]:
    """The entry points `purification_bench.<kind>` of the packages that can be imported, by name.

    Args:
        kind: one of KINDS.
    """
    return _installed(tuple(sys.path), PREFIX + kind)


@lru_cache
def _installed(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def welcome(registry: Registry[Any], kind: str, adopt: Adopt) -> None:
    """Let installed packages register in a registry: when it is first asked for a name, each entry point is loaded.

    One that fails is one warning, takes back what it registered, and stops no other.

    Args:
        registry: of one kind.
        kind: one of KINDS.
        adopt: (name of the entry point, what it stands for) registers that, if loading it has not done so.
    """
    registry.late = lambda: _load_all(kind, adopt)


def _load_all(kind: str, adopt: Adopt) -> None:
    for entry in installed_plugins(kind):
        with registrations() as registered:
            try:
                adopt(entry.name, entry.load())
            except (Exception, SystemExit) as error:
                forget(registered)
                said = (str(error) or "no message").splitlines()[0].removesuffix(".")
                package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
                warnings.warn(
                    f"The plug-in {entry.name!r} ({entry.group}, of the package {package}) could not be loaded: "
                    f"{type(error).__name__}: {said}. Update or uninstall the package; all else works without it.",
                    PluginWarning,
                    stacklevel=2,
                )


def adopt_class(registry: Registry[Any], register: Callable[[str], Callable[[Any], Any]]) -> Adopt:
    """What `welcome` needs for classes: a class joins under the entry point's name unless it has registered itself."""

    def adopt(name: str, found: Any) -> None:
        here = [cls for cls in registry.present() if _belongs(cls, found)]
        if isinstance(found, type) and not here:
            register(name)(found)
        elif not here:
            what = f"{getattr(found, '__name__', repr(found))} to register a {registry.kind}"
            raise ValueError(f"Expected {what}, found none: write @register above a class")

    return adopt


def adopt_record(registry: Registry[Any], kind: type, register: Callable[..., Any]) -> Adopt:
    """What `welcome` needs for records: a record, a function that makes what it describes, or a module that registers.

    Args:
        registry: of the records.
        kind: their class.
        register: record -> None, or name -> decorator of a function.
    """

    def adopt(name: str, found: Any) -> None:
        if isinstance(found, kind):
            register(found)
        elif callable(found) and name not in registry:
            register(name)(found)

    return adopt


def _belongs(cls: type, found: Any) -> bool:
    name = getattr(found, "__name__", "")
    return cls is found or cls.__module__ == name or cls.__module__.startswith(f"{name}.")
