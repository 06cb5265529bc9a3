"""The Python of docs/python.md and of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench

ROOT = Path(__file__).resolve().parents[3]


def run_page(page: Path) -> dict[str, Any]:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    return names


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(ROOT / "docs" / "python.md")
    assert isinstance(names["result"], bench.Result) and len(names["result"].images) == 4
    assert len(names["done"].done) == 2 and isinstance(names["frame"], pd.DataFrame) and len(names["frame"]) == 2
    assert names["adversarial"].shape == names["x"].shape


def test_the_readme_runs_in_fifteen_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(ROOT / "README.md")
    low, high = names["result"].interval
    assert low <= names["result"].robust_accuracy <= high
    section = (ROOT / "README.md").read_text().partition("## From Python")[2].partition("\n## ")[0]
    assert len(section.partition("```python")[2].partition("```")[0].strip().splitlines()) <= 15


def test_the_page_names_every_argument_that_it_explains() -> None:
    import inspect

    from bench.api.evaluation import evaluate

    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs" / "python.md").read_text(), flags=re.MULTILINE)
    names = set(re.findall(r"`(\w+)`", " ".join(told)))
    assert names and names <= set(inspect.signature(evaluate).parameters)
