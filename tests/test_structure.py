"""The house: which room may import which, no import circle, short files, one field of a docstring a line.

The arrows are read from the code with `ast`: imports at the top of a module, inside functions and under TYPE_CHECKING.
docs/architecture.md shows the same order to a reader.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = (
    # What is evaluated. `defenses` itself is one file a defense, and the door.
    ("defenses.watching", "what is registered while something runs"),
    ("defenses.registry", "names stand for classes"),
    ("defenses.plain_data", "what a field may hold"),
    ("defenses.class_attributes", "class attributes that a class must state"),
    ("defenses.declared", "what a class must state before it gets a name"),
    ("defenses.own_code", "the user's own code behind a class"),
    ("defenses.user_place", "where in a user's files an error happened"),
    ("defenses.user_error", "its mistakes, with the file's own line"),
    ("defenses.user_file", "a file of the user's, loaded once; it may register things"),
    ("defenses.plugins", "what installed packages register"),
    ("defenses.traits", "class attributes that an instance's fields decide"),
    ("defenses.field_types", "fields are plain data of their annotated types; cells and threats use it too"),
    ("defenses.compat", "libraries that need a hand"),
    ("defenses.memory", "what running out of memory looks like, what is free, what was taken"),
    ("defenses.again", "graphs that are built again in the backward pass"),
    ("defenses.inner_rows", "rows inside a network where the batch outside stays whole"),
    ("defenses.rows", "how many rows go through at once"),
    ("defenses.noise", "randomness as a pure function"),
    ("defenses.recorded", "recorded noise, which tests replay"),
    ("defenses.sealed", "noise that says nothing of who asks"),
    ("defenses.precision", "the arithmetic of the judge and of an attack"),
    ("defenses.defended", "what an attack and the judge see"),
    ("defenses.attacked", "a defense as an attacker in low precision sees it"),
    ("defenses.resize", "images of another size"),
    ("defenses.diffusion.schedule", "how noise grows with time: part of a score network, so below the networks"),
    ("defenses.models", "networks and where their weights come from"),
    ("defenses.base", "what a defense is; it is handed networks"),
    ("defenses.diffusion", "the mathematics that the diffusion defenses share"),
    ("defenses", "one defense, one file"),
    # How it is evaluated.
    ("bench.epsilon", "8/255, written and read"),
    ("bench.printable", "texts of others, as they may be shown"),
    ("bench.terminal", "letters that a terminal lacks"),
    ("bench.records", "what one image said"),
    ("bench.statistics", "intervals and paired tests over records"),
    ("bench.tally", "the images of a run as arrays, for a million of them"),
    ("bench.threat", "what the attacker may change"),
    ("bench.attacks", "one attack, one file"),
    ("bench.gates", "doubts about an attack"),
    ("bench.planned", "a cell as plain data, for those who must not import a model"),
    ("bench.cell", "the name of one number: it names a defense and an attack"),
    ("bench.evaluate", "the judge: runs an attack, asks the defense on fresh draws"),
    ("bench.datasets", "pictures"),
    ("bench.literature", "what others measured, and whether ours agrees"),
    ("bench.draw", "numbers in, pictures out: curves, bars, strips"),
    ("bench.report", "data frames in, tables out: below the store, so that it cannot open one"),
    ("bench.view", "data frames in, pictures out"),
    ("bench.store", "where results lie"),
    ("bench.evidence", "the adversarial images behind a number: kept, read, checked"),
    ("bench.run", "one cell, from its name to a stored number"),
    ("bench.launchers", "places for workers: here, Slurm, Ray"),
    ("bench.grids", "which cells make an experiment, and its tables"),
    ("bench.plugins", "files that register things"),
    ("bench.training", "how the small networks were made"),
    ("bench.commands", "one verb, one file"),
    ("bench.api", "the functions of `import bench`: what the verbs do, for objects"),
    ("bench.cli", "parse, call, print"),
    ("bench.__main__", "python -m bench"),
    ("bench", "the door: names that are imported on first use"),
)
"""Rooms from the lowest to the highest, each with its reason. A module belongs to the longest name that begins its
own, and imports from its own room and from rooms above it in this list, never from those below."""

RANK = {room: place for place, (room, _) in enumerate(ROOMS)}
NUMBERS = {"bench.statistics", "bench.tally", "bench.records", "bench.epsilon"}
ONLY = {
    "bench.draw": set(),
    "bench.report": {"bench.draw", "bench.literature", "bench.printable", "defenses.registry", *NUMBERS},
    "bench.store": {"bench.literature", "bench.printable", "defenses.registry", *NUMBERS},
    "bench.literature": {  # a classifier's title is in its record, which loads no network
        "bench.statistics",
        "bench.records",
        "bench.epsilon",
        "defenses.registry",
        "defenses.models",
    },
}
"""Rooms that see data and no model: the rooms that they may import, and no others."""

LONGEST, MEDIAN = 400, 100  # lines
SECTIONS = ("Args", "Attributes", "Class attributes", "Returns", "Raises", "Yields")


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    files = sorted(path for package in ("bench", "defenses") for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def imports(name: str) -> Iterator[str]:
    """Modules of the two packages that a module imports, wherever in its text."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports in full, `from {'.' * node.level}...` hides the room"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield from [found for found in (full, node.module) if found in modules()][:1]


@cache
def arrows() -> dict[str, set[str]]:
    """Module -> what it imports of the two packages."""
    return {name: set(imports(name)) - {name} for name in modules()}


def room(name: str) -> str:
    """The room of a module."""
    fitting = [r for r in RANK if name == r or name.startswith(r + ".")]
    found = max(fitting, key=len)
    if found == "bench" and name != "bench":
        pytest.fail(f"{name} has no room yet: give it a line in ROOMS of tests/test_structure.py, with its reason")
    return found


def reachable(start: str) -> set[str]:
    """Everything that is imported, over any number of arrows."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for name in arrows()[ahead.pop()] - found:
            found.add(name)
            ahead.append(name)
    return found


def test_no_import_circle() -> None:
    circles = {name for name in modules() if name in reachable(name)}
    assert not circles, f"modules that import themselves over others: {sorted(circles)}"


def test_imports_between_rooms_point_one_way() -> None:
    wrong = [f"{a} -> {b}" for a, targets in arrows().items() for b in targets if RANK[room(a)] < RANK[room(b)]]
    assert not wrong, "these imports point up:\n" + "\n".join(sorted(wrong))


@pytest.mark.parametrize("name", list(ONLY))
def test_rooms_that_see_data_import_no_model(name: str) -> None:
    wrong = [
        f"{a} -> {b}" for a in modules() if room(a) == name for b in arrows()[a] if room(b) not in {name, *ONLY[name]}
    ]
    assert not wrong, f"{name} may import {sorted(ONLY[name])} only:\n" + "\n".join(wrong)


@pytest.mark.parametrize("package", ["bench.draw", "bench.report", "bench.store", "bench.literature", "bench.cli"])
def test_rooms_that_see_data_import_no_torch(package: str) -> None:
    names = [name for name in modules() if name == package or name.startswith(package + ".")]
    names = [name for name in names if not name.endswith(".__main__")]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
    code += "found = {'torch', 'defenses.base'} & set(sys.modules)\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_architecture_page_shows_these_rooms() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = [line for line in page.splitlines() if line.startswith("    ") and "->" in line]
    chains = [re.findall(r"[\w.]+", line.split("(")[0]) for line in drawn]
    real = {(room(a), room(b)) for a, targets in arrows().items() for b in targets}
    wrong = [f"{a} -> {b}" for chain in chains for a, b in itertools.pairwise(chain) if (a, b) not in real]
    assert chains and not wrong, f"drawn in docs/architecture.md, but not in the code: {wrong}"
    tops = {name.split(".")[1] for name in RANK if "." in name and name in modules()}
    missing = [top for top in sorted(tops) if f"`{top}/`" not in page and f"`{top}.py`" not in page]
    assert not missing, f"docs/architecture.md does not say what these rooms are for: {missing}"


def test_defenses_know_nothing_of_bench() -> None:
    wrong = [name for name in modules() if name.startswith("defenses") for b in arrows()[name] if b.startswith("bench")]
    assert not wrong, wrong


def test_one_defense_imports_no_other() -> None:
    from defenses import defenses

    files = {f"defenses.{name}" for name in defenses}
    wrong = [f"{a} -> {b}" for a in files for b in arrows()[a] & files]
    assert not wrong, f"what two defenses share belongs into defenses/diffusion or defenses/base.py: {wrong}"


def test_files_are_short() -> None:
    files = [*modules().values(), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in files}
    long = {name: count for name, count in lines.items() if count > LONGEST}
    assert not long, f"longer than {LONGEST} lines: {long}"
    assert statistics.median(lines.values()) <= MEDIAN


def documented(name: str) -> Iterator[tuple[str, str, set[str]]]:
    """(where, docstring, names of its parameters or fields) of what is public in a module."""
    for node, owner in _public(tree(name)):
        text = ast.get_docstring(node)
        if text:
            where = ".".join(filter(None, (name, owner, node.name)))
            yield where, inspect.cleandoc(text), _names(node)


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(parent: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[Definition, str]]:
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node, owner
            if isinstance(node, ast.ClassDef):
                yield from _public(node, node.name)


def _names(node: Definition) -> set[str]:
    if isinstance(node, ast.ClassDef):
        init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        return fields.union(*map(_names, init))
    given = node.args
    more = [a for a in (given.vararg, given.kwarg) if a is not None]
    return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, *more)} - {"self"}


def prose_fields(text: str, names: set[str]) -> list[str]:
    """Names that a docstring explains (`name: ...`) elsewhere than on a line of their own in a section.

    Only where a name begins a line or follows a stop or comma: "the state of a checkpoint: its ..." is a sentence.
    """
    found, section = [], False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            section = line.rstrip(":") in SECTIONS and line.endswith(":")
        entry = re.match(r" {4}\**(\w+):( |$)", line) if section else None
        rest = line[entry.end() :] if entry else line
        found += [name for name in re.findall(r"(?:^ *|[.;,)] )\**(\w+):(?= )", rest) if name in names]
    return found


@pytest.mark.parametrize("name", list(modules()))
def test_docstrings_have_one_field_a_line(name: str) -> None:
    wrong = {where: fields for where, text, names in documented(name) if (fields := prose_fields(text, names))}
    assert not wrong, (
        "write `name: meaning, unit, range` on a line of its own below Args: or Attributes:\n"
        + "\n".join(f"{where}: {', '.join(fields)}" for where, fields in wrong.items())
    )


@pytest.mark.parametrize("name", list(modules()))
def test_docstrings_name_parameters_that_exist(name: str) -> None:
    for node, _ in _public(tree(name)):
        section = (ast.get_docstring(node) or "").partition("\nArgs:\n")[2].split("\n\n")[0]
        told = set(re.findall(r"^ {4}\**(\w+):", section, flags=re.MULTILINE))
        assert told <= _names(node), (
            f"{name}.{node.name} documents {sorted(told - _names(node))}, which it does not take"
        )


def test_the_docstring_rule_tells_prose_from_sections() -> None:
    good = "Do it.\n\nArgs:\n    a: one, in (0, 1];\n        more of it.\n    b: two.\n\nReturns:\n    The ratio a:b."
    assert prose_fields(good, {"a", "b"}) == []
    assert prose_fields("Read what lies in a: its rows.", {"a", "b"}) == []
    assert prose_fields("Do it.\n\na: one. b: two.", {"a", "b"}) == ["a", "b"]
    assert prose_fields("Do it.\n\nArgs:\n    a: one; b: two.", {"a", "b"}) == ["b"]
    assert prose_fields("Do it.\n\nArgs:\n    a, b: both.", {"a", "b"}) == ["b"]
