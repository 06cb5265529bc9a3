"""Reports read plain data: no torch, the cells of one grid alone, and the same tables as from the grid itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_data import CELL, PROVENANCE, SUMMARY, save_all

from bench.cli import main
from bench.commands import grid_data
from bench.grids import grid_cells, grid_names, load_grid
from bench.grids.described import describe_grid, read_grid
from bench.report import Table
from bench.store import Store

ROOT = Path(__file__).parents[3]
OWN = '''
"""Two cells of a file."""
from dataclasses import dataclass
from typing import ClassVar
from bench.attacks.noise import UniformNoise
from bench.cell import Cell
from bench.grids import Grid
from bench.report import Table
from bench.threat import ThreatModel
from defenses import Purifier, register

@register
@dataclass(frozen=True, kw_only=True)
class Own(Purifier):
    title: ClassVar[str] = "my own defense"
    source: ClassVar[str] = "here"
    stochastic: ClassVar[bool] = False
    strength: float = 1.0
    def build(self, *, classifier, score, gradient="exact"):
        return lambda images, noise: images

def cells():
    for strength in (1.0, 2.0):
        yield Cell(dataset="digits", classifier="digits_cnn", defense=Own(strength=strength), attack=UniformNoise(),
                   threat=ThreatModel(norm="Linf", epsilon=0.1, gradient="none"), num_images=4, draws=2)

GRID = Grid(title="Mine", cells=cells, tables=(Table(name="one", title="Mine too", rows=("defense",)),))
'''


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def without_torch(*arguments: object) -> str:
    """What a command prints in a process in which an import of torch is an error."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision'):\n"
        "            raise ImportError(f'{name} was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from bench.cli import main\n"
        f"main({[str(a) for a in arguments]!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which a shipped grid ran in part, then a grid of a file."""
    found = tmp_path_factory.mktemp("reports")
    (found / "mine.py").write_text(OWN)
    options = ("--db", found / "r.sqlite", "--device", "cpu")
    first = bench("run", "--limit", 2, "--num-images", 4, *options)
    assert first.exit_code == 0, first.output
    own = bench("run", "--grid", found / "mine.py", *options)
    assert own.exit_code == 0, own.output
    return found


def test_commands_that_read_import_no_torch(folder: Path) -> None:
    db = ("--db", folder / "r.sqlite")
    last = without_torch("report", *db)
    assert "Mine too" in last and "my own defense" in last and "undefended" not in last
    assert last == without_torch("report", "--grid", folder / "mine.py", *db)
    assert "undefended" in without_torch("report", "--grid", "quickstart", "--num-images", 4, *db)
    every = without_torch("report", "--all", "--format", "csv", *db)
    assert len(every.strip().splitlines()) == 5
    keys = [line.split(",")[0] for line in without_torch(
        "query", "SELECT cell_key FROM results ORDER BY grid, defense_params", "--format", "csv", *db
    ).split()[1:]]  # fmt: skip
    assert "defense: mine" in without_torch("show", keys[0], *db)
    assert "McNemar" in without_torch("compare", keys[0], keys[1], *db)
    assert "2 done" in without_torch("status", "--grid", folder / "mine.py", *db)
    pytest.importorskip("itables")
    assert "Wrote" in without_torch("view", "--bundle", folder / "site", *db)
    assert "my own defense" in (folder / "site" / "cell" / f"{keys[0]}.html").read_text()
    assert (
        f"--grid {folder / 'mine.py'} --filter key={keys[0]}"
        in (folder / "site" / "cell" / f"{keys[0]}.html").read_text()
    )


def test_a_report_without_a_grid_names_the_others(folder: Path) -> None:
    shown = bench("report", "--db", folder / "r.sqlite")
    assert "This is mine, the grid that ran last here. Others: quickstart (2 cells)." in shown.stderr
    assert "--all" in shown.stderr and "This is" not in shown.stdout
    assert bench("report", "--all", "--grid", "quickstart", "--db", folder / "r.sqlite").exit_code == 2


def test_a_changed_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    with Store(folder / "r.sqlite", readonly=True) as store:
        stored = store.grid("mine")
        assert stored and stored["digest"] == grid_data.hash_file(folder / "mine.py")
        text = (folder / "mine.py").read_text()
        try:
            (folder / "mine.py").write_text(text.replace("Mine too", "Changed").replace("@register\n", ""))
            with pytest.raises(ValueError, match="mine.py"):  # the file itself now has a mistake, and that is told
                grid_data.find_grid(str(folder / "mine.py"), store)
        finally:
            (folder / "mine.py").write_text(text)


def test_shipped_grids_are_described_as_they_are() -> None:
    """Keys, tables and published numbers; CI fails where the generated file is stale."""
    assert set(grid_data.shipped()) == set(grid_names()), "run `python -m bench.commands.catalog`"
    for name in ("quickstart", "cifar10_small", "digits_attacks"):
        read = read_grid(grid_data.shipped()[name])
        cells = grid_cells(name)
        assert [cell.key for cell in read.cells()] == [cell.key for cell in cells]
        rows = json.dumps([cell.row() for cell in cells], sort_keys=True)  # tuples are lists there
        assert json.dumps([cell.row() for cell in read.cells()], sort_keys=True) == rows
        assert [t.name for t in read.tables] == [t.name for t in load_grid(name).tables]
    paper = read_grid(grid_data.shipped()["paper_tables"])
    assert [cell.key for cell in paper.cells("quick")] == [cell.key for cell in grid_cells("paper_tables", "quick")]
    with pytest.raises(ValueError, match="Expected protocol among paper, strong, gold, both, quick"):
        paper.cells("silver")


def test_tables_that_choose_by_a_function_are_not_written_down() -> None:
    from dataclasses import replace

    grid = replace(load_grid("quickstart"), tables=(Table(name="x", only=lambda cell: cell["gradient"] == "exact"),))
    assert describe_grid(grid, {}, {}) is None


def test_a_report_reads_the_images_of_the_cells_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of another defense are not read; a rival outside the grid still marks a number."""
    with Store(tmp_path / "r.sqlite") as store:
        for key, changes in {
            "a": {"attack": "pgd_eot"},
            "b": {"attack": "gold"},
            "c": {"defense": "jpeg"},
            "d": {"defense": "jpeg", "attack": "gold"},
        }.items():
            store.add_cell(CELL | changes | {"key": key * 16, "grid": key})
            run = store.start_run(key * 16, **PROVENANCE)
            save_all(store, run)
            store.finish_run(run, **SUMMARY)
        read: list[int] = []
        tallies = Store.tallies
        monkeypatch.setattr(Store, "tallies", lambda self, ids: read.extend(ids) or tallies(self, ids))
        frame = store.frame(["a" * 16])
        assert set(frame["cell_key"]) == {"a" * 16, "b" * 16}
        from bench.commands.report import RunImages
        from bench.report import with_outdone

        with_outdone(frame, RunImages(store, frame))
        assert sorted(read) == [1, 2]


def test_images_are_read_once_however_many_runs_there_are() -> None:
    """Defenses take turns, and together they have more runs than one query reads."""
    import numpy as np
    import pandas as pd

    from bench.commands.report import RunImages
    from bench.tally import tally_rows

    class Counting:
        read = 0

        def tallies(self, run_ids: list[int]) -> dict[int, object]:
            self.read += len(run_ids)
            return {run: tally_rows(run, np.zeros((1, 7), np.int32), lambda runs, places: {}) for run in run_ids}

    runs = 12_000
    names = {"dataset": "digits", "classifier": "c", "epsilon": 0.1}
    frame = pd.DataFrame({"run_id": range(runs), "defense": ["a", "b", "c", "d"] * (runs // 4)}).assign(**names)
    store = Counting()
    images = RunImages(store, frame)  # type: ignore[arg-type]
    for run in range(0, runs, 5):
        assert images(run).runs == (run,)
    assert store.read == runs


def test_counted_images_agree_with_records(tmp_path: Path) -> None:
    """Joined, paired and voted: the arrays say what `compare` says of the records."""
    from bench.statistics import compare
    from bench.tally import compare_tallies, join_tallies, pair, tally_records

    with Store(tmp_path / "r.sqlite") as store:
        for number in range(2):
            store.add_cell(CELL | {"key": str(number) * 16, "seed": number})
            save_all(store, store.start_run(str(number) * 16, **PROVENANCE))
        found = store.tallies([1, 2])
        joined = join_tallies([found[1], found[2]])
        assert joined.draws.tolist() == [20] * 4 and joined.robust.tolist() == [0, 14, 20, 10]
        assert joined.vote_right().tolist() == [0, 1, 1, 0]  # ten against ten is a tie
        records = store.images(1)
        assert compare_tallies(*pair(found[1], found[2])) == compare(records, store.images(2))
        assert tally_records(1, records, store.images).vote_right().tolist() == found[1].vote_right().tolist()


@pytest.mark.parametrize("width", [44, 80, 160])
def test_tables_fit_the_terminal(folder: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = bench("report", "--grid", "quickstart", "--num-images", 4, "--db", folder / "r.sqlite").stdout.splitlines()
    rows = [line for line in lines if line]
    assert max(map(len, rows)) <= width
    words = set("\n".join(rows).split())
    assert {"undefended", "adversarial", "training", "straight_through", "likelihood", "maximization"} <= words
