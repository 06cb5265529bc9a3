"""The documents say what the program says: generated blocks, verbs, defenses, no machine's paths."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from bench.cli import main
from bench.commands.catalog import FILE, build, catalog, sources_hash

ROOT = Path(__file__).parents[1]


README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [path for path in PAGES if path.name != "CHANGELOG.md"]  # that one tells of what was
USERS = r"my_\w+\.(py|svg|toml)|FILE\.py|index\.csv|\w*_labels\.csv|flags_doc\.md"  # users', and AutoAttack's


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
    """The numbers that it says it shows: how they are drawn differs with matplotlib's version."""
    told = re.findall(r"<dc:description>(.*?)</dc:description>", path.read_text(), flags=re.DOTALL)
    fresh = re.findall(r"<dc:description>(.*?)</dc:description>", REFRESH.PICTURES[path](), flags=re.DOTALL)
    assert told and told == fresh, f"{path.name} is stale: run `python docs/refresh.py`"


def test_every_marked_block_is_generated() -> None:
    for path in PAGES:
        marked = set(re.findall(r"^<!-- (\w+) -->$", path.read_text(), flags=re.MULTILINE))
        assert marked == set(REFRESH.BLOCKS.get(path, ())), f"{path.name}: add the block to docs/refresh.py, or cut it"


def test_the_citation_names_this_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version and f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_catalogue_is_up_to_date() -> None:
    stored = json.loads(FILE.read_text())
    assert stored == {"sources": sources_hash(), "kinds": build()}, "run `python -m bench.commands.catalog`"
    assert catalog() == stored["kinds"]


def test_every_verb_is_in_the_readme_and_has_help() -> None:
    readme = README.read_text()
    for name, command in main.commands.items():
        assert f"bench {name}" in readme, name
        silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert command.help and not silent, (name, silent)


def test_every_numeric_claim_about_published_rows() -> None:
    import csv

    with (ROOT / "bench" / "published.csv").open() as file:
        rows = sum(1 for _ in csv.DictReader(file))
    assert f"{rows} numbers from the literature" in README.read_text()


def test_the_protocol_names_every_gate() -> None:
    from bench.gates import GATES

    page = (ROOT / "docs" / "protocol.md").read_text()
    assert not [gate.__name__ for gate in GATES if f"`{gate.__name__}`" not in page]


def test_the_readme_is_one_screen_and_starts_with_two_commands() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 100
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("    ")]
    assert commands[1:3] == ["pip install . && bench run", "pip install '.[test]' && pytest -n auto"]


def test_numbers_in_the_readme_stand_in_its_table() -> None:
    before, _, rest = README.read_text().partition("<!-- summary -->")
    table, _, after = rest.partition("<!-- /summary -->")
    for number in re.findall(r"(?<![\w.])\d+\.\d(?![\w.])", before + after):
        assert number in table, f"the README speaks of {number}, which its table does not show"


def tracked() -> list[str]:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if not files.stdout:
        pytest.skip("not a git checkout: nothing to look through")
    return files.stdout.split()


def test_every_document_that_is_named_exists() -> None:
    files = tracked()
    readers = [f for f in files if f.endswith((".md", ".py", ".toml")) and not f.startswith("tests/")]
    missing: dict[str, list[str]] = {}
    for reader in readers:
        text = (ROOT / reader).read_text()
        for name in set(re.findall(r"(?<![\w/.~$:<>*{-])\w[\w./-]*\.(?:md|csv|svg|py|cff)\b(?![\w(/])", text)):
            known = any(f == name or f.endswith("/" + name.removeprefix("../")) for f in files)
            if not known and not re.fullmatch(USERS, name.split("/")[-1]):
                missing.setdefault(name, []).append(reader)
    assert not missing, f"named, but not there: {missing}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), f"{path.name}: {link}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{path.name}: {link}"


def commands(path: Path) -> list[list[str]]:
    """The words of every `bench ...` line of a page, and of every such phrase in backticks."""
    text = path.read_text()
    found = re.findall(r"^    (?:.*&& )?bench (.*)$", text, flags=re.MULTILINE) + re.findall(r"`bench ([^`\n]+)`", text)
    return [shlex.split(line, comments=True) for line in found if "..." not in line]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_commands_of_the_documents_exist(path: Path) -> None:
    from bench.grids import grid_names

    for words in commands(path):
        verb = main.commands.get(words[0]) if words else None
        assert verb is not None, f"{path.name}: bench {' '.join(words)}"
        options = {option for p in verb.params for option in p.opts}
        unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
        assert not unknown, f"{path.name}: bench {' '.join(words)}"
        grids = [b for a, b in zip(words, words[1:], strict=False) if a == "--grid"]
        known = [*grid_names(), "NAME", "GRID"]
        wrong = [
            name
            for name in grids
            if name not in known and not name.endswith((".py", ".toml")) and not name.startswith("my_")
        ]
        assert not wrong, f"{path.name}: there is no grid {wrong}"


def test_nothing_names_a_machine() -> None:
    files = tracked()
    texts = [f for f in files if Path(f).suffix in (".py", ".md", ".toml", ".json", ".csv", "") and f != "LICENSE"]
    for name in texts:
        text = (ROOT / name).read_text(errors="ignore")
        assert not re.search("/wor" + "k/|/op" + "t/|/roo" + "t/", text), name


def test_the_short_answer_of_the_findings_is_what_its_tests_say() -> None:
    """The words in bold are written by hand: they stand while guidance gains nothing but under the exact gradient."""
    text = (ROOT / "docs" / "findings.md").read_text()
    assert "**guidance buys nothing that these pictures show" in text
    block = text.partition("<!-- answers -->")[2].partition("<!-- /answers -->")[0]
    gains, seems = (part.split("\n- ")[1:] for part in block.split("\n**")[1:3])
    assert len(gains) == 3 and all(", not established. No gain" in line for line in gains)
    assert ", established. **" in seems[0] and ", established. The exact gradient is the weaker attack" in seems[1]


def test_the_frontier_is_what_its_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/frontier.csv keeps what every image answered; the table of docs/attacks.md and its figure follow."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    frontier = importlib.import_module("frontier")
    found = frontier.found(frontier.open_rows(":memory:", False), "digits")
    text = (ROOT / "docs/attacks.md").read_text().partition("<!-- by benchmarks/frontier.py -->")[2]
    assert text.partition("<!-- /by benchmarks/frontier.py -->")[0].strip() == frontier.table(found)
    title = "Robust accuracy minus gold's, points: digits"
    assert (ROOT / "docs/frontier.svg").read_text() == frontier.figure(found, title)
