"""The user's own code behind a class or a function: its file, and what that imports of what belongs with it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[1]


def hash_own_code(*things: Any) -> dict[str, str]:
    """Hash the user's own code behind classes and functions.

    That is the file outside both packages that defines a thing, and what it imports from its own folder, of its own
    package, or of its own distribution where it is installed.

    Args:
        things: classes, functions, modules or paths of files.

    Returns:
        The path of each file from that folder -> the first 12 hex digits of its sha256.
    """
    found = {}
    for thing in things:
        with suppress(OSError, TypeError):  # a class of no file
            path = Path(thing if isinstance(thing, Path) else inspect.getfile(thing)).resolve()
            if is_ours(path):
                continue
            for file in own_files(path):
                found[os.path.relpath(file, path.parent)] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return found


def is_ours(path: Path) -> bool:
    """Whether a file belongs to the packages `bench` or `defenses`."""
    return any(path.is_relative_to(SOURCES / package) for package in ("bench", "defenses"))


def own_files(path: Path) -> set[Path]:
    """A file of the user's and what it imports that is the user's too, over any number of imports.

    Read from the text, so that it does not depend on what happens to be loaded.
    """
    found: set[Path] = set()
    _collect(path, _Home.of(path), found)
    return found


@dataclass(frozen=True)
class _Home:
    """Where a file's own imports may lead.

    Attributes:
        folder: the file's.
        root: the folder that its package is imported from; `folder` where it is in no package.
        names: the top-level names that belong with it below `root`; None is all.
    """

    folder: Path
    root: Path
    names: frozenset[str] | None

    @classmethod
    def of(cls, path: Path) -> _Home:
        root = path.parent
        while (root / "__init__.py").is_file() and root.parent != root:
            root = root.parent
        top = path.stem if root == path.parent else path.relative_to(root).parts[0]
        if any(root.glob("*.dist-info")):  # an install folder holds others' packages too
            return cls(path.parent, root, frozenset({top}) | _distributed_with(root, path))
        return cls(path.parent, root, None if root == path.parent else frozenset({top}))

    def places(self, dotted: str) -> Iterator[Path]:
        """Folders that a dotted name may be below."""
        if self.names is None or dotted.split(".")[0] in self.names:
            yield self.root
        if self.folder != self.root:  # a script in a package's folder sees what lies beside it
            yield self.folder


@lru_cache
def _distributed_with(root: Path, path: Path) -> frozenset[str]:
    """Top-level names of the installed distribution that brought a file."""
    own = path.relative_to(root).as_posix()
    for record in root.glob("*.dist-info/RECORD"):
        with suppress(OSError):
            files = [line.split(",")[0] for line in record.read_text(encoding="utf-8").splitlines()]
            if own in files:
                return frozenset(file.split("/")[0].removesuffix(".py") for file in files if file.endswith(".py"))
    return frozenset()


def _collect(path: Path, home: _Home, found: set[Path]) -> None:
    if path in found:
        return
    found.add(path)
    for node in ast.walk(ast.parse(path.read_bytes())):
        for base, dotted in _imported(node, path, home):
            parts = dotted.split(".")
            for end in range(1, len(parts) + 1):
                place = base.joinpath(*parts[:end])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if file.is_file() and not is_ours(file.resolve()):
                        _collect(file.resolve(), home, found)


def _imported(node: ast.AST, path: Path, home: _Home) -> Iterator[tuple[Path, str]]:
    """(folder to look in, dotted name) of what an import statement may load."""
    if isinstance(node, ast.Import):
        yield from ((place, alias.name) for alias in node.names for place in home.places(alias.name))
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            dotted = ".".join(filter(None, (node.module, alias.name)))
            places = (path.parents[node.level - 1],) if node.level else home.places(dotted)
            yield from ((place, dotted) for place in places)
