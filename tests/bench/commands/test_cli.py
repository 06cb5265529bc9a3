"""The command line: what a user types, sees, and gets as exit code."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_data import CELL, batch, image

from bench.cli import main
from bench.commands.choose import chosen
from bench.store import Store, make_database
from defenses import defenses

GRID = Path(__file__).parents[3] / "docs" / "adding-a-defense.md"


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of docs/adding-a-defense.md, as a user would copy it."""
    code = GRID.read_text().split("```python\n")[1].split("```")[0]
    path = tmp_path_factory.mktemp("grid") / "my_blur.py"
    path.write_text(code)
    yield path
    if "my_blur" in defenses:  # what the file registered is no part of the package
        del defenses["my_blur"]


@pytest.fixture(scope="module")
def db(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which the outside grid has run."""
    path = tmp_path_factory.mktemp("db") / "r.sqlite"
    result = bench("run", "--grid", grid, "--db", path, "--num-images", 16, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "my_blur" in result.output and "2 done" in result.output
    return path


def key(db: Path) -> str:
    sql = "SELECT cell_key FROM results ORDER BY robust_accuracy"
    return bench("query", sql, "--db", db, "--format", "csv").output.split()[1]


def test_a_second_run_does_nothing_and_says_so(db: Path, grid: Path) -> None:
    again = bench("run", "--grid", grid, "--db", db, "--num-images", 16)
    assert again.exit_code == 0 and "Nothing to do: all 2 cells are done" in again.output


def test_show_of_a_curve_whose_loss_was_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Store(path) as store:
        store.add_cell(CELL)
        run = store.start_run(CELL["key"])
        store.save_batch(run, batch(0), [image(42, 10), image(7, 7)])
        store.save_batch(
            run, replace(batch(1), curve=[batch(1).curve[0] | {"loss": float("nan")}]), [image(9), image(3)]
        )
        store.finish_run(run)
    shown = bench("show", CELL["key"], "--db", path)
    assert shown.exit_code == 0 and "pgd 0: nan 100.0 %" in shown.output


def test_show_query_compare(db: Path) -> None:
    shown = bench("show", key(db), "--db", db).output
    assert "my_blur" in shown and "Images (16)" in shown and "Convergence" in shown
    keys = bench("query", "SELECT cell_key FROM results", "--db", db, "--format", "csv").output.split()[1:]
    compared = bench("compare", *keys, "--db", db)
    assert compared.exit_code == 0 and "McNemar" in compared.output
    write = bench("query", "DELETE FROM runs", "--db", db)
    assert write.exit_code == 2 and len(keys) == 2


@pytest.mark.parametrize("form", ["text", "latex", "markdown", "html", "csv", "json"])
def test_report(db: Path, grid: Path, form: str) -> None:
    report = bench("report", "--grid", grid, "--db", db, "--format", form)
    assert report.exit_code == 0, report.output
    assert "my" in report.output and "blur" in report.output


def test_dry_run_forecasts_and_stores_nothing(grid: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    result = bench("run", "--grid", grid, "--db", path, "--dry-run", "--num-images", 4)
    assert result.exit_code == 0 and "network evaluations" in result.output and not path.exists()
    key = result.output.split()[0]  # its first letters are enough to choose a cell
    again = bench("run", "--grid", grid, "--db", path, "--dry-run", "--num-images", 4, "--filter", f"key={key}")
    assert again.exit_code == 0 and again.output.startswith(key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--grid", "quickstrat"], "Did you mean 'quickstart'?"),
        (["run", "--filter", "defence=jpeg"], "Did you mean 'defense'?"),
        (["run", "--filter", "defense"], "--filter COLUMN=VALUE"),
        (["run", "--filter", "defense=contrastve"], "Did you mean 'contrastive'?"),
        (
            ["run", "--filter", "defense=jpeg", "--filter", "gradient=adjoint"],
            "Unknown gradient in quickstart 'adjoint'",
        ),
        (["run", "--filter", "defense=jpeg", "--filter", "score=digits_score"], "No cell of quickstart passes"),
        (["fetch", "cifar_resnet57"], "Did you mean 'cifar_resnet56'?"),
        (["run", "--filter", "key="], "No cell of quickstart passes"),
        (["run", "--filter", "epsilon=1/0"], "Expected a number or a fraction such as 8/255, got '1/0'"),
        (["run", "--smoke", "--dry-run"], "Leave one of them out"),
        (["run", "--grid", "noise_level", "--protocol", "quick"], "has no cells in protocol quick"),
        (["run", "--device", "abacus"], "Expected a device"),
        (["report", "--format", "csv", "--output", "/nowhere/to/be/found/a.csv"], "/nowhere/to/be/found/a.csv"),
        (["list", "defenses", "contrastiv"], "Did you mean 'contrastive'?"),
        (["list", "attacks", "pgd_eto"], "Did you mean 'pgd_eot'?"),
        (["audit", "contrastive", "--set", "t=2"], "t in (0, 1]"),
        (["audit", "contrastive", "--set", "tt=2"], "Fields: "),
    ],
)
def test_mistakes_are_answered_with_a_remedy(arguments: list[str], message: str, tmp_path: Path) -> None:
    if arguments[0] == "report":
        make_database(tmp_path / "r.sqlite")
    db = [] if arguments[0] in ("list", "audit", "fetch") else ["--db", str(tmp_path / "r.sqlite")]
    result = bench(*arguments, *db)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("my notes")
    for command in (["report"], ["run"], ["run", "--dry-run"]):
        result = bench(*command, "--db", path)
        assert result.exit_code == 2 and path.read_text() == "my notes"


def test_a_smoke_run_leaves_results_as_they_are(db: Path) -> None:
    before = db.read_bytes()
    result = bench("run", "--smoke", "--limit", 1, "--db", db)
    assert result.exit_code == 2 and "holds results" in result.output and db.read_bytes() == before


def test_a_seed_given_to_a_grid_of_several_seeds_runs_once(tmp_path: Path) -> None:
    grid = tmp_path / "two_seeds.py"
    grid.write_text(
        "from dataclasses import replace\nfrom bench.grids.quickstart import cells as all_cells\n\n"
        "def cells():\n    for cell in list(all_cells())[4:6]:\n        yield from (cell, replace(cell, seed=9))\n"
    )
    assert len(chosen(str(grid))) == 4 and len(chosen(str(grid), seed=3)) == 2


def test_a_fraction_chooses_what_scripts_have_rounded() -> None:
    filters = ["epsilon=4/255", "tier=paper", "defense=contrastive"]
    assert {cell.threat.epsilon for cell in chosen("paper_tables", filters=filters)} == {0.0157}


def test_a_failing_cell_is_exit_code_one(grid: Path, tmp_path: Path) -> None:
    result = bench("run", "--grid", grid, "--db", tmp_path / "r.sqlite", "--num-images", 501)
    assert result.exit_code == 1 and "num_images <= 500" in result.output


def test_every_kind_is_listed() -> None:
    for kind in ("defenses", "attacks", "datasets", "classifiers", "scores", "grids"):
        result = bench("list", kind)
        assert result.exit_code == 0 and len(result.output.splitlines()) > 1
    assert "Bai et al." in bench("list", "defenses").output
    assert "guidance_scale" in bench("list", "defenses", "contrastive").output
    grid = bench("list", "grids", "paper_tables").output
    assert "ICML 2024" in grid and "cells: 4136" in grid and "tables: autoattack-linf-wrn-28-10, " in grid


def test_audit_of_an_exact_gradient() -> None:
    result = bench("audit", "diffpure_sde", "--set", "t=0.05", "--set", "steps=3", "--images", "2")
    assert result.exit_code == 0, result.output
    error = float(result.output.rsplit("largest error ", 1)[1].split()[0])
    assert error < 1e-6 and "straight_through" in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["list", "defenses"]])
def test_start_up_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; from bench.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[3])
    assert time.perf_counter() - begin < 30  # a hang, not a timing: benchmarks/ has those
