"""Text of others (names, notes, errors) as it may be shown: letters that move a cursor or hide text are written out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

HIDING = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # control, direction and joining marks, halves of a pair, line separators


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with every control letter as its escape, such as \\x1b.

    Args:
        text: any text, even one that UTF-8 cannot write.
        keep: control letters that stay.
    """
    if text.isprintable():
        return text
    return "".join(_escape(letter) if _hides(letter) and letter not in keep else letter for letter in text)


def one_line(text: str) -> str:
    """The printable text on one line: white space, line breaks too, becomes single spaces."""
    return printable(" ".join(text.split()), keep="")


def printable_data(value: Any) -> Any:
    """Plain data whose texts are printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_data(key): printable_data(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(printable_data, value))
    return value


def _hides(letter: str) -> bool:
    return unicodedata.category(letter) in HIDING


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
