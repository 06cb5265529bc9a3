"""A mistake in a grid file, or in what it imports, is one sentence with the file's own line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.grids import GridFileError, grid_cells

HELPERS = {
    "helper_of_mistakes.py": "X = 1\n\n\ndef f():\n    return undefined_name\n\n\nf()\n",
    "syntax_of_mistakes.py": "x = 1\ny = (2,\nz = 3\n",
}
MISTAKES = {
    "in a module beside it": ("import helper_of_mistakes\n", r"^helper_\w+.py, line 5: NameError"),
    "syntax beside it": ("\nimport syntax_of_mistakes\n", r"^syntax_\w+.py, line 2: SyntaxError"),
    "syntax": ("x = 1\ndef cells()\n    yield 1\n", r"^grid_\w+.py, line 2: SyntaxError: expected ':'$"),
    "inside cells": ("def make():\n    return {}['x']\ndef cells():\n    yield make()\n", r"line 2: KeyError: 'x'"),
    "a value": (
        "from defenses.diffpure_sde import DiffPureSDE\ndef cells():\n    yield DiffPureSDE(steps=2.5)\n",
        r"^grid_\w+.py, line 3: Expected steps of DiffPureSDE to be a whole number or None, got 2.5",
    ),
    "no list": ("def cells():\n    return 3\n", "Expected cells.. to yield cells, found an int"),
    "no cell": ("def cells():\n    yield 'a'\n", "found 'a' at place 0"),
    "none": ("def cells():\n    pass\n", "found nothing"),
    "an exit": ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0 ends the program"),
    "no UTF-8": ("x = '\udcff'\n", "SyntaxError"),
    "without end": ("def cells():\n    return cells()\n", "line 2: RecursionError"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_sentence_with_the_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, sentence = MISTAKES[mistake]
    for name, content in HELPERS.items():
        if name.removesuffix(".py") in text:
            (tmp_path / name).write_text(content, encoding="utf-8")
    grid = tmp_path / f"grid_{abs(hash(mistake))}.py"
    grid.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(GridFileError, match=sentence):
        grid_cells(str(grid))
