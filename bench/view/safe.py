"""Data inside pages: names and notes come from users, so that nothing in them may become markup or code."""

from __future__ import annotations

import json
from typing import Any

UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_script(value: Any) -> str:
    """JSON that may stand in a script element: it holds no letter that HTML gives a meaning, and null for NaN."""
    try:
        text = _write(value)
    except ValueError:  # NaN or an infinity, for which JSON has no words
        text = _write(clean(value))
    for letter, written in UNSAFE.items():
        text = text.replace(letter, written)
    return text


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)


def clean(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON has no words for."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, (list, tuple)) else value
