"""Texts of others never move a cursor, hide text or break a stream."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.printable import one_line, printable, printable_data
from bench.terminal import PLAIN, _make_tolerant, be_tolerant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ± ε 漢 🙂", "plain – ± ε 漢 🙂"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\x08\x7f\x00", r"a\rb\x08\x7f\x00"),
        ("\u202etxet", r"\u202etxet"),
        ("\udcff", r"\udcff"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_control_letters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown and printable(shown) == shown
    assert "\n" not in one_line(text) and one_line("a\n  b\x1b") == r"a b\x1b"
    assert printable_data({"k\x1b": [text, 1, None]}) == {r"k\x1b": [shown, 1, None]}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_stream_of_another_encoding_gets_replacements(encoding: str) -> None:
    be_tolerant()
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    _make_tolerant(stream)
    stream.write("".join(PLAIN) + "é漢\udcff")
    stream.flush()
    assert raw.getvalue().decode(encoding)


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=folder, env=given, capture_output=True)


def test_the_command_line_in_ascii(tmp_path: Path) -> None:
    sql = "SELECT '– ± \x1b[31m é' AS note"
    report = run(["query", sql, "--db", str(ROOT / "results.sqlite")], tmp_path, PYTHONIOENCODING="ascii")
    assert report.returncode == 0, report.stderr
    assert b"- +- \\x1b[31m e" in report.stdout
    broken = run(["query", "SELECT – é", "--db", str(ROOT / "results.sqlite")], tmp_path, PYTHONIOENCODING="ascii")
    assert broken.returncode == 2 and b"Traceback" not in broken.stderr


def test_no_file_is_written_in_the_encoding_of_a_place() -> None:
    """Every text file is read and written as UTF-8, whatever the locale is."""
    found = []
    for path in (*(ROOT / "bench").rglob("*.py"), *(ROOT / "defenses").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                text = node.func.attr in ("read_text", "write_text") and "formatter" not in ast.unparse(node.func)
                if text and not any(word.arg == "encoding" for word in node.keywords):
                    found.append(f"{path.name}:{node.lineno}")
    assert not found
