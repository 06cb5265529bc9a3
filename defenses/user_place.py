"""Where in a user's files an error happened, and what it says: for a sentence in place of a stack."""

from __future__ import annotations

import traceback
from pathlib import Path


def find_place(error: BaseException, path: Path) -> str:
    """The file and line of a mistake: the deepest one in the folder of the user's file, libraries left out.

    Args:
        error: as it was caught.
        path: the user's file.

    Returns:
        "my_grid.py, line 3", or "my_blur.py, line 7 (from my_grid.py, line 3)" for what it imports from beside it.
    """
    path = path.resolve()
    frames = [(Path(frame.filename).resolve(), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if _is_own(file, path)]
    if isinstance(error, SyntaxError) and error.filename and _is_own(Path(error.filename).resolve(), path):
        own.append((Path(error.filename).resolve(), error.lineno))
    if not own:
        return path.name
    file, line = own[-1]
    place = f"{file.name}, line {line}"
    calls = [f"{path.name}, line {number}" for found, number in own if found == path]
    return place if file == path or not calls else f"{place} (from {calls[-1]})"


def say(error: BaseException) -> str:
    """What an error says, with its kind where the words alone do not tell."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    if isinstance(error, SystemExit):
        return f"SystemExit: {error.code} ends the program. A file only defines things: take the call out"
    plain = isinstance(error, ValueError | LookupError) and not isinstance(error, KeyError | IndexError)
    return str(error) if plain and str(error) else f"{type(error).__name__}: {error}"


def _is_own(file: Path, path: Path) -> bool:
    """Whether a file lies beside the user's and is no library; generated code ("<string>") is no file at all."""
    library = any(part in ("site-packages", "dist-packages") for part in file.parts)
    return file.is_relative_to(path.parent) and not library and file.is_file()
