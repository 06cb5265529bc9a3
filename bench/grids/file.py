"""A grid in a file of the user's: loaded once, and its mistakes told in a sentence with the file's own line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from defenses.user_place import find_place, say

HINTS = {
    "cannot inherit non-frozen dataclass": "Write @dataclass(frozen=True, kw_only=True) above the class.",
    "non-default argument": "Write @dataclass(frozen=True, kw_only=True) above the class.",
    "unexpected keyword argument": "`bench list defenses NAME` and `bench list attacks NAME` print the fields.",
    "No module named": "Modules beside the file can be imported; others must be installed.",
    "abstract": "Define the methods that the message names; docs/adding-a-defense.md shows them.",
}
"""What an error says -> what to do."""


class GridFileError(ValueError):
    """A mistake in a user's file; the message names the line."""


def load_file(path: Path) -> ModuleType:
    """The module of a file, run once for each state of the file.

    It has a private name, so that a file may be called like a module, and its folder can be imported from.

    Raises:
        LookupError: there is no such file.
        GridFileError: the file cannot be run.
    """
    if not path.is_file():
        raise LookupError(f"There is no file {path}. Give the path of a Python file.")
    status = path.stat()
    return _run_once(path.resolve(), status.st_mtime_ns, status.st_size)


@contextmanager
def told_with_its_line(path: Path) -> Iterator[None]:
    """Turn an error of a user's file into a GridFileError."""
    try:
        yield
    except GridFileError:
        raise
    except (Exception, SystemExit) as error:
        hint = next((hint for said, hint in HINTS.items() if said in str(error)), "")
        text = f"{find_place(error, path)}: {say(error)}"
        raise GridFileError(text.removesuffix(".") + f". {hint}" if hint else text) from error


@cache
def _run_once(path: Path, changed: int, size: int) -> ModuleType:
    name = f"_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: what lies beside the file hides no library
    with told_with_its_line(path):
        spec.loader.exec_module(module)
    return module
