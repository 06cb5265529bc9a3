"""A grid is a record; a file with `cells()` alone is one too."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.grids import Grid, grid_cells, grid_names, load_grid

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


@pytest.mark.parametrize("text", ["", "GRID = 3", "cells = []"])
def test_a_file_that_holds_no_grid_says_what_is_expected(text: str, tmp_path: Path) -> None:
    file = tmp_path / "empty_mine.py"
    file.write_text(text)
    with pytest.raises(LookupError, match="Expected `GRID = Grid"):
        load_grid(str(file))
