"""A Python file of the user's: loaded once, under a private name, its folder open to imports."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from defenses.registry import unknown_name
from defenses.user_error import told_with_its_line
from defenses.watching import Registered, forget, registrations


@dataclass
class _Loaded:
    module: ModuleType
    state: tuple[int, int]
    registered: list[Registered] = field(default_factory=list)


_LOADED: dict[Path, _Loaded] = {}
_FOLDERS: set[Path] = set()
_RUNNING: list[Path] = []


def load_file(path: Path) -> ModuleType:
    """The module of a file, run once for each state of the file, whoever asks for it.

    It has a private name, so that a file may be called like a module, and its folder can be imported from; what is
    imported from there is loaded once too. When a file has changed, what its older state registered is forgotten.

    Raises:
        LookupError: there is no such file.
        UserFileError: the file cannot be run; nothing that it registered remains.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise LookupError(
            f"There is no file {path}{'' if path.is_absolute() else f' in {Path.cwd()}'}. Give the path of a Python "
            "file."
        )
    status, real = path.stat(), path.resolve()
    state = (status.st_mtime_ns, status.st_size)
    known = _LOADED.get(real)
    if known is not None and known.state == state:
        return known.module
    if known is not None:
        forget(known.registered, known.module.__name__)
    return _run(real, state)


def load_function(name: str) -> Callable[..., Any]:
    """The function behind <file>.py:<function>.

    Raises:
        LookupError: there is no such file, or no such function in it.
        UserFileError: the file cannot be run.
    """
    path, _, function = name.rpartition(":")
    module = load_file(Path(path))
    found = getattr(module, function, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
        raise unknown_name(f"function of {Path(path).name}", function, own)
    return found


def has_loaded_files() -> bool:
    """Whether any file of the user's has been loaded."""
    return bool(_LOADED)


def registered_by(module: ModuleType) -> list[Registered]:
    """What a file which `load_file` has loaded registered, and what others did that it was the first to import."""
    return next((loaded.registered for loaded in _LOADED.values() if loaded.module is module), [])


def _run(path: Path, state: tuple[int, int]) -> ModuleType:
    name = f"_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LookupError(f"Expected a Python file (.py), got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    _open_folder(path.parent)
    loaded = _LOADED[path] = _Loaded(module, state)
    _RUNNING.append(path.parent)
    with registrations() as loaded.registered:
        try:
            with told_with_its_line(path):
                spec.loader.exec_module(module)
        except BaseException:
            del _LOADED[path]
            forget(loaded.registered, name)
            raise
        finally:
            _RUNNING.pop()
    return module


def _open_folder(folder: Path) -> None:
    """Let imports find what lies in a folder of the user's."""
    _FOLDERS.add(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: what lies beside the file hides no library
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, module in [(path.stem, sys.modules.get(path.stem)) for path in folder.glob("*.py")]:
        if module in [loaded.module for file, loaded in _LOADED.items() if file.parent != folder]:
            del sys.modules[name]  # a file of this name from another folder of the user's


class _Finder(MetaPathFinder):
    """Imports of single files from the user's folders: each is the module that `load_file` gives for it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The file's spec; None for all that does not lie in these folders."""
        if path is not None or not any((folder / f"{fullname}.py").is_file() for folder in _FOLDERS):
            return None
        first = PathFinder.find_spec(fullname)
        own = first is not None and first.origin is not None and Path(first.origin).resolve().parent in _FOLDERS
        beside = PathFinder.find_spec(fullname, [str(_RUNNING[-1])]) if own and _RUNNING else None
        found = beside or first
        if found is None or found.origin is None:
            return None
        file = Path(found.origin).resolve()
        if file.parent not in _FOLDERS or file.name != f"{fullname}.py":
            return None
        return importlib.util.spec_from_loader(fullname, _Once(file), origin=str(file))


class _Once(Loader):
    def __init__(self, file: Path) -> None:
        self.file = file

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the file, which runs here if nobody has asked for it yet."""
        return load_file(self.file)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has run."""
