"""Each planted defense is marked in the table that `bench run` prints, by name of the reason; no honest one is."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from planted import grid, lab
from planted.adaptive import EPSILON, Victim, truth
from planted.honest import HONEST
from planted.measure import COLUMNS, OUT, Silent
from planted.who_asks import forget

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from defenses.base import Defense, Gradient
from defenses.undefended import Undefended

FLATTERED = 8.0  # points that a planted number lies above what the attack by hand leaves
PLANTED = lab.PLANTED
BY_NAME = {"ids": lambda value: getattr(value, "name", value)}


@dataclass
class Row:
    """A row of the printed table: its number, and footnotes."""

    number: str
    notes: list[str]

    @property
    def gates(self) -> set[str]:
        """What the footnotes begin with; "failed" where the cell did."""
        return {"failed"} if self.number == "failed" else {note.split(":")[0] for note in self.notes}


def read(table: str) -> list[Row]:
    """The rows of the printed table that have a robust accuracy, in its order."""
    notes = dict(re.findall(r"^\((\w+)\) (.*?)(?=^\(\w+\) |\Z)", table, flags=re.M | re.S))
    rows = []
    for line in table.split("─\n")[1].split("\n\n")[0].splitlines():
        found = re.search(r"(failed|\d+\.\d\*? \[.*?\] ?[✓!]?)\s*(?:\(([\w,]+)\))?", line)
        if found:
            rows.append(Row(found[1], [" ".join(notes[mark].split()) for mark in (found[2] or "").split(",") if mark]))
    return rows


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """Name -> row of the table of one `bench run` of the grid file."""
    forget()
    database = str(tmp_path_factory.mktemp("planted") / "results.sqlite")
    wide = {"COLUMNS": "400"}  # a row of the table is then one line
    result = CliRunner(env=wide).invoke(main, ["run", "--grid", str(Path(grid.__file__)), "--db", database])
    names = [cls.name for cls in PLANTED] + [defense.name for defense, _ in HONEST]
    rows = read(result.output)
    assert len(rows) == len(names), result.output
    return dict(zip(names, rows, strict=True))


@cache
def loader() -> Loader:
    return Loader(torch.device("cpu"))


def told(cell: Cell, folder: Path) -> set[str]:
    """The gates that fail in a run of a cell; "failed" where the cell does."""
    forget()
    with Store(str(folder / f"{cell.key}.sqlite")) as store:
        run_cells([cell], store, loader(), Silent(), grid="planted")
        run = store.runs_of(cell.key)[0]
    if run["status"] == "failed":
        return {"failed"}
    return {gate["gate"] for gate in run["gates"] if gate["passed"] is False}


def measured() -> dict[str, dict[str, str]]:
    with OUT.open(newline="") as file:
        return {row["defense"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("planted", PLANTED, **BY_NAME)
def test_a_planted_defense_is_marked_by_name_of_the_reason(planted: Any, printed: dict[str, Row]) -> None:
    row = printed[planted.name]
    if planted.told_by:
        assert row.gates & {*planted.told_by, "failed"}, row  # a cell that is refused prints no number
    else:
        assert float(row.number.split()[0]) < float(measured()[planted.name]["truth"]) + FLATTERED


@pytest.mark.parametrize("defense", [defense for defense, _ in HONEST], **BY_NAME)
def test_an_honest_defense_is_not(defense: Defense, printed: dict[str, Row]) -> None:
    assert printed[defense.name].notes == [] and printed[defense.name].number.endswith("✓")


def test_the_folder_holds_every_kind() -> None:
    kinds = Counter(planted.kind for planted in PLANTED)
    every = {value for name, value in vars(lab).items() if name.isupper() and isinstance(value, str)}
    assert set(kinds) == every and min(kinds.values()) >= 2 and len(PLANTED) >= 30 and len(HONEST) == 11


def test_the_page_says_how_much_each_flatters() -> None:
    by_name, flattering = {cls.name: cls for cls in PLANTED}, 0
    for name, row in measured().items():
        assert set(row) == set(COLUMNS)
        if row["truth"]:
            flatters = row["quick"] == "failed" or float(row["quick"]) >= float(row["truth"]) + FLATTERED
            assert flatters == bool(by_name[name].told_by), row
            flattering += flatters
    assert flattering >= 30


@pytest.mark.parametrize("name", ["planted_flipped_everywhere", "planted_off_sixteen_levels", "planted_contraction"])
def test_the_attack_by_hand_again(name: str) -> None:
    planted = next(cls for cls in PLANTED if cls.name == name)
    prepared = loader().prepare(grid.cell(planted(), planted.at, "quick"))
    images, labels = (of(planted.judged_on)[:16] for of in (lab.pictures, lab.answers))
    forget()
    assert truth(Victim(planted(), prepared.classifier, None, images, labels)) < float(measured()[name]["quick"]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, **BY_NAME)
def test_a_planted_defense_is_told_by_all_gates(planted: Any, tmp_path: Path) -> None:
    assert bool(told(grid.cell(planted(), planted.at, "paper"), tmp_path) & planted.told_by) == bool(planted.told_by)


@pytest.mark.slow
@pytest.mark.parametrize(("defense", "gradient"), HONEST, **BY_NAME)
def test_an_honest_defense_passes_every_gate(defense: Defense, gradient: Gradient, tmp_path: Path) -> None:
    assert told(grid.cell(defense, gradient, "paper"), tmp_path) == set()


def test_an_attack_that_cannot_cross_the_ball(tmp_path: Path) -> None:
    cell = grid.cell(Undefended(), "exact", "quick")
    short = replace(cell, attack=PGDEOT(steps=4, step_size=EPSILON / 40, eot=1, start="zero"))
    assert {"step_reaches", "margin_transfer"} <= told(short, tmp_path)
