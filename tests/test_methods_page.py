"""docs/methods.md has a section for every registered defense, and its defaults are the code's."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from defenses import defenses

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
DEFENSES = PAGE.partition("\n## Defenses\n")[2].partition("\n## ")[0]
SECTIONS = dict(zip(*[iter(re.split(r"^### `(\w+)`.*\n", DEFENSES, flags=re.MULTILINE)[1:])] * 2, strict=True))
every_name = pytest.mark.parametrize("name", list(defenses))


def test_the_sections_are_those_of_the_registry_in_order() -> None:
    assert list(SECTIONS) == sorted(defenses)


@every_name
def test_the_index_links_to_the_section(name: str) -> None:
    index = DEFENSES.partition("\n### ")[0]
    assert f"[`{name}`](#{name})" in index


def test_every_link_inside_the_page_has_its_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors


@every_name
def test_stated_defaults_are_the_defaults(name: str) -> None:
    """Every `field = value` after *Defaults.* in a section."""
    fields = {field.name: field.default for field in dataclasses.fields(defenses[name])}
    stated = re.findall(r"`(\w+) = ([^`]+)`", SECTIONS[name].partition("*Defaults.*")[2])
    assert stated or name in ("undefended", "chain")
    for field, value in stated:
        top, slash, bottom = value.partition("/")
        expected = float(top) / float(bottom) if slash else ast.literal_eval(value)
        assert fields[field] == expected, field
