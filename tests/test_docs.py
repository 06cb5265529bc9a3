"""The documents say what the program says: generated blocks, verbs, defenses, no machine's paths."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import click
import pytest

from bench.cli import main
from bench.commands.catalog import FILE, build, catalog, sources_hash

ROOT = Path(__file__).parents[1]


def refresh_module():  # noqa: ANN201  (a module made on the spot)
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFRESH = refresh_module()


@pytest.mark.parametrize("path", list(REFRESH.BLOCKS), ids=lambda path: path.name)
def test_generated_blocks_are_up_to_date(path: Path) -> None:
    assert path.read_text() == REFRESH.refreshed(path), f"{path.name} is stale: run `python docs/refresh.py`"


@pytest.mark.parametrize("path", list(REFRESH.PICTURES), ids=lambda path: path.name)
def test_generated_pictures_are_up_to_date(path: Path) -> None:
    assert path.read_text() == REFRESH.PICTURES[path](), f"{path.name} is stale: run `python docs/refresh.py`"


def test_the_catalogue_is_up_to_date() -> None:
    stored = json.loads(FILE.read_text())
    assert stored == {"sources": sources_hash(), "kinds": build()}, "run `python -m bench.commands.catalog`"
    assert catalog() == stored["kinds"]


def test_every_verb_is_in_the_readme_and_has_help() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, command in main.commands.items():
        assert f"bench {name}" in readme, name
        silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert command.help and not silent, (name, silent)


def test_every_numeric_claim_about_published_rows() -> None:
    import csv

    with (ROOT / "bench" / "published.csv").open() as file:
        rows = sum(1 for _ in csv.DictReader(file))
    assert f"{rows} numbers from the literature" in (ROOT / "README.md").read_text()


def test_nothing_names_a_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a git checkout: nothing to look through")
    texts = [f for f in files if Path(f).suffix in (".py", ".md", ".toml", ".json", ".csv", "") and f != "LICENSE"]
    for name in texts:
        text = (ROOT / name).read_text(errors="ignore")
        assert not re.search("/wor" + "k/|/op" + "t/|/roo" + "t/", text), name
