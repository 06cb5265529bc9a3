"""Mistakes in a file of the user's: a sentence with the file's own line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from defenses.user_place import find_place, say

HINTS = {
    "cannot inherit non-frozen dataclass": "Write @dataclass(frozen=True, kw_only=True) above the class.",
    "non-default argument": "Write @dataclass(frozen=True, kw_only=True) above the class.",
    "mutable default <class 'list'>": "Write the default as a tuple: (1, 2) in place of [1, 2].",
    "unexpected keyword argument": "`bench list defenses NAME` and `bench list attacks NAME` print the fields.",
    "cannot assign to field": "A frozen class needs no __init__: write its fields as `sigma: float = 0.5`.",
    "takes 1 positional argument": "Fields are given by name: MyBlur(sigma=0.3).",
    "No module named": "Modules beside the file can be imported; others must be installed.",
    "abstract": "Define the methods that the message names; docs/your-own.md shows them.",
}
"""What an error says -> what to do."""


class UserFileError(ValueError):
    """A mistake in a user's file; the message names the line."""


@contextmanager
def told_with_its_line(path: Path) -> Iterator[None]:
    """Turn an error of a user's file into a UserFileError."""
    try:
        yield
    except UserFileError:
        raise
    except (Exception, SystemExit) as error:
        hint = next((hint for said, hint in HINTS.items() if said in str(error)), "")
        text = f"{find_place(error, path)}: {say(error)}"
        raise UserFileError(text.removesuffix(".") + f". {hint}" if hint else text) from error
