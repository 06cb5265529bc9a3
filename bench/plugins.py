"""Plug-in files: `--plugin FILE.py`, the plug-ins of a grid in TOML, and `load_plugin` in Python."""

from __future__ import annotations

import os
from pathlib import Path

from defenses.user_error import UserFileError
from defenses.user_file import load_file, registered_by

VARIABLE = "BENCH_PLUGIN"


def load_plugin(path: str | os.PathLike[str]) -> list[str]:
    """Load a Python file of the user's, so that names can stand for what it registers.

    Args:
        path: of the file; a relative one counts from the working folder, ~ is expanded.

    Returns:
        The names that it registered, as "defense my_blur".

    Raises:
        LookupError: there is no such file.
        UserFileError: it cannot be run, or registers nothing.
    """
    file = Path(path).expanduser()
    module = load_file(file)
    shipped = ("defenses.", "bench.")  # a class of ours that the file was the first to import is not its own
    names = [f"{registry.kind} {name}" for registry, name, by in registered_by(module) if not by.startswith(shipped)]
    if callable(getattr(module, "cells", None)) or hasattr(module, "GRID"):
        names.append(f"grid {file}")
    if not names:
        raise UserFileError(
            f"{file.name} registers nothing. Write @register above the class of a defense or an attack, or "
            "@register_classifier, @register_score or @register_dataset above a function; docs/your-own.md shows each."
        )
    return names


def load_plugins(paths: tuple[str, ...]) -> None:
    """Load several files, and let the processes that this one starts load them too."""
    for path in paths:
        load_plugin(path)
    if paths:
        before = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
        absolute = [str(Path(path).expanduser().resolve()) for path in paths]
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*before, *absolute]))
