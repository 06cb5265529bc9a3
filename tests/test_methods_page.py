"""docs/methods.md has a section for every registered defense and attack, and its defaults are the code's."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from bench.attacks import attacks
from defenses import defenses

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()


def sections(heading: str) -> tuple[str, dict[str, str]]:
    """(what stands before the first section, name -> section) below a heading of the page."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    first, *rest = re.split(r"^### `(\w+)`.*\n", text, flags=re.MULTILINE)
    return first, dict(zip(*[iter(rest)] * 2, strict=True))


ROOMS = {"Defenses": defenses, "Attacks": attacks}
WITHOUT_FIELDS = {"undefended", "chain", "clean", "noise", "autoattack_rand", "autoattack_standard"}
every_name = pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room, registry in ROOMS.items() for name in registry]
)


@pytest.mark.parametrize("room", ROOMS)
def test_the_sections_are_those_of_the_registry_in_order(room: str) -> None:
    assert list(sections(room)[1]) == sorted(ROOMS[room])


@every_name
def test_the_index_links_to_the_section(room: str, name: str) -> None:
    assert f"[`{name}`](#{name})" in sections(room)[0]


def test_every_link_inside_the_page_has_its_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors


@every_name
def test_stated_defaults_are_the_defaults(room: str, name: str) -> None:
    """Every `field = value` after *Defaults.* in a section."""
    fields = {field.name: field.default for field in dataclasses.fields(ROOMS[room][name])}
    stated = re.findall(r"`(\w+) = ([^`]+)`", sections(room)[1][name].partition("*Defaults.*")[2])
    assert stated or name in WITHOUT_FIELDS
    for field, value in stated:
        top, slash, bottom = value.partition("/")
        expected = float(top) / float(bottom) if slash else ast.literal_eval(value)
        assert fields[field] == expected, field
