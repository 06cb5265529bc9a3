"""What is printed where a terminal or a file cannot show a letter: a plain one in its place, never an error."""

from __future__ import annotations

import codecs
import os
import stat
import sys
import unicodedata
from typing import TextIO

PLAIN = {
    "–": "-", "—": "-", "─": "-", "━": "-", "│": "|", "✓": "v", "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=",
    "ε": "eps", "·": ".", "…": "...", "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
HANDLER = "bench.plain"


ASCII = "bench_ascii"  # click takes a stream that is called ascii for a misconfigured one, and writes UTF-8 to it


def be_tolerant() -> None:
    """Let standard output and error replace letters that they cannot write, and write UTF-8 into files.

    PYTHONIOENCODING and PYTHONUTF8 stay in force.
    """
    codecs.register_error(HANDLER, _replace)
    codecs.register(lambda name: _ascii() if name == ASCII else None)
    for stream in (sys.stdout, sys.stderr):
        _make_tolerant(stream)


def _make_tolerant(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if stream is None or reconfigure is None:
        return
    asked = os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8")
    encoding = stream.encoding if asked or not _is_file(stream) else "utf-8"
    reconfigure(encoding=ASCII if codecs.lookup(encoding).name == "ascii" else encoding, errors=HANDLER)


def _ascii() -> codecs.CodecInfo:
    real = codecs.lookup("ascii")
    return codecs.CodecInfo(
        real.encode, real.decode, real.streamreader, real.streamwriter, real.incrementalencoder,
        real.incrementaldecoder, name=ASCII,
    )  # fmt: skip


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(map(_plain, found)), error.end


def _plain(letter: str) -> str:
    return PLAIN.get(letter) or unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
