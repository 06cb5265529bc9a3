"""A grid is a record; a file with `cells()` alone is one too."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench.grids import Grid, GridFileError, grid_cells, grid_names, load_grid
from defenses import defenses
from defenses.models.classifiers import CLASSIFIERS

CELL = """
from bench.attacks.clean import Clean
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.undefended import Undefended

def cells():
    threat = ThreatModel(norm="Linf", epsilon=0.1, gradient="none")
    yield Cell(dataset="digits", classifier="digits_cnn", defense=Undefended(), attack=Clean(), threat=threat)
"""


@pytest.mark.parametrize("name", grid_names())
def test_every_grid_that_ships_is_described(name: str) -> None:
    grid = load_grid(name)
    assert isinstance(grid, Grid) and grid.title and grid.about
    assert len({table.name for table in grid.tables}) == len(grid.tables)


def test_a_file_with_cells_alone_or_with_a_grid(tmp_path: Path) -> None:
    plain, typed = tmp_path / "plain_mine.py", tmp_path / "typed_mine.py"
    plain.write_text(CELL)
    typed.write_text(
        '"""What it asks."""\nfrom bench.grids import Grid\n' + CELL + '\nGRID = Grid(title="Mine", cells=cells)'
    )
    assert load_grid(str(plain)).title == "plain_mine"
    assert (load_grid(str(typed)).title, load_grid(str(typed)).about) == ("Mine", "What it asks.")
    assert [cell.key for cell in grid_cells(str(plain))] == [cell.key for cell in grid_cells(str(typed))]


OWN_NETWORK = """
import importlib
from pathlib import Path
from torch import nn
from defenses.models.classifiers import ClassifierInfo, register_classifier

register_classifier(
    ClassifierInfo(
        name="own_network", datasets=("digits",), source="here", licence="MIT", find=lambda: Path(__file__),
        load=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    )
)
"""


def test_a_file_may_bring_a_network_and_be_asked_for_twice(tmp_path: Path) -> None:
    """A command reads the grid's file more than once; what it registers is registered once."""
    file = tmp_path / "network_mine.py"
    file.write_text(OWN_NETWORK + CELL.replace("digits_cnn", "own_network"))
    try:
        assert load_grid(str(file)).title == load_grid(str(file)).title
        assert {cell.classifier for cell in grid_cells(str(file))} == {"own_network"}
    finally:
        del CLASSIFIERS["own_network"]


@pytest.mark.parametrize("text", ["", "GRID = 3", "cells = []"])
def test_a_file_that_holds_no_grid_says_what_is_expected(text: str, tmp_path: Path) -> None:
    file = tmp_path / "empty_mine.py"
    file.write_text(text)
    with pytest.raises(LookupError, match="Expected `GRID = Grid"):
        load_grid(str(file))


OWN = """
from dataclasses import dataclass
from typing import ClassVar
from defenses.base import Purifier, register

@register
@dataclass(frozen=True, kw_only=True)
class Mine(Purifier):
    source: ClassVar[str] = "none"
    stochastic: ClassVar[bool] = False
    sigma: float = 0.1

    def build(self, *, classifier, score, gradient="exact"):
        return lambda images, noise: images
"""
MISTAKES = {
    "no register": ("@register\n", "", "Write @register above the class"),
    "not frozen": ("@dataclass(frozen=True, kw_only=True)", "@dataclass", r"line \d+: TypeError: .*frozen=True"),
    "misspelt field": ("Mine(sigma", "Mine(sgima", r"line \d+: TypeError: .*'sgima'.* print the fields"),
    "no source": ('    source: ClassVar[str] = "none"\n', "", "Mine to state its source"),
    "no build": ("def build", "def biuld", r"line \d+: Expected Mine to define build\(.*, found biuld"),
    "other method": ("def build", "def forward", r"Expected Mine to define build\(self.*gradient.*\), found forward"),
    "signature": (
        'def build(self, *, classifier, score, gradient="exact")',
        "def build(self, images, noise)",
        r"Expected Mine.build\(self, \*, classifier, score, gradient='exact'\), found build\(self, images",
    ),
    "no dataclass": (
        "@dataclass(frozen=True, kw_only=True)\n",
        "",
        "Expected Mine to be a dataclass. Write @dataclass",
    ),
    "no stochastic": ("    stochastic: ClassVar[bool] = False\n", "", "to state whether two answers for one image"),
    "stochastic is no bool": (
        "stochastic: ClassVar[bool] = False",
        "stochastic: ClassVar[bool] = 'no'",
        "Expected stochastic of Mine to be True or False, got 'no'",
    ),
    "misspelt attribute": (
        "stochastic:",
        "batch_couple: ClassVar[bool] = True\n    stochastic:",
        r"Unknown class attribute 'batch_couple' of Mine. Did you mean 'batch_coupled'\?",
    ),
    "attribute as a field": (
        "stochastic: ClassVar[bool]",
        "stochastic: bool",
        r"Expected stochastic of Mine as a class attribute, found a field. Write `stochastic: C",
    ),
    "a list": ("sigma: float = 0.1", "sigma: list = [0.1]", r"mutable default .*Write the default as a tuple"),
    "no plain data": (
        "sigma: float = 0.1",
        "sigma: object = print",
        r"Expected plain data .* in the field sigma of Mine, found a builtin_function_or_method",
    ),
    "a field called like a method": (
        "sigma: float = 0.1",
        "sigma: float = 0.1\n    params: int = 3",
        "Expected another name for the field params of Mine: Defense has a method",
    ),
    "gradients is a text": (
        "stochastic:",
        'gradients: ClassVar[tuple[str, ...]] = ("exact")\n    stochastic:',
        r"Expected gradients of Mine to be a tuple, got 'exact'. Write gradients = \('exact',\)",
    ),
    "no such gradient": (
        "stochastic:",
        'gradients: ClassVar[tuple[str, ...]] = ("exakt",)\n    stochastic:',
        r"Unknown kind of gradient 'exakt'. Did you mean 'exact'\?",
    ),
    "no defense": (
        "class Mine(Purifier)",
        "class Mine",
        "Expected Mine to be a subclass of Defense, found one of noth",
    ),
    "a name with a space": ("@register\n", '@register("my blur")\n', r"without spaces, got 'my blur'. Try 'my_blur'"),
    "a shipped name": ("@register\n", '@register("jpeg")\n', "'jpeg', which ships with this package"),
    "a class": ("Mine(sigma=0.1)", "Mine", r"Expected defense=Mine\(\), got the class"),
    "unknown gradient": ('gradient="none"', 'gradient="exacct"', r"line \d+: Expected gradient among .* got 'exacct'"),
    "no such module": ("from bench.cell", "from bench.sell", "ModuleNotFoundError: .*bench.sell"),
    "syntax": ("def cells():", "def cells()", r"line \d+: SyntaxError"),
    "exit": ("def cells():", "def cells():\n    raise SystemExit(0)", r"line \d+: SystemExit: 0"),
    "returned": (
        "    yield Cell",
        "    return Cell",
        "Expected cells.. to yield cells, found a Cell. Write `yield",
    ),
    "own init": (
        "    def build",
        "    def __init__(self, sigma):\n        self.sigma = sigma\n\n    def build",
        "FrozenInstanceError: .* A frozen class needs no __init__",
    ),
    "no threat": ("threat=threat", "threat='Linf'", r"Expected threat=ThreatModel\(...\), got 'Linf'"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_in_a_file_is_a_sentence_with_its_line(mistake: str, tmp_path: Path) -> None:
    before, after, said = MISTAKES[mistake]
    cells = CELL.replace("from defenses.undefended import Undefended\n", "")
    text = OWN + cells.replace("Undefended()", "Mine(sigma=0.1)")
    assert before in text
    file = tmp_path / f"mistake_{mistake.replace(' ', '_')}.py"
    file.write_text(text.replace(before, after))
    try:
        with pytest.raises(GridFileError, match=said):
            grid_cells(str(file))
    finally:
        if file.stem in defenses:
            del defenses[file.stem]


@pytest.mark.parametrize("name", ["torch", "random", "logging", "bench"])
def test_a_file_may_have_the_name_of_a_library_and_import_from_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / f"beside_{name}.py").write_text("EPSILON = 0.1\n")
    file = tmp_path / f"{name}.py"
    file.write_text(f"from beside_{name} import EPSILON\n" + CELL)
    assert len(grid_cells(str(file))) == 1
    module = importlib.import_module(name)
    assert module.__file__ != str(file)
