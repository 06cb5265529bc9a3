"""`bench status`: cells, batches, images and time left of each grid; who holds what; what failed."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from store_data import CELL, PROVENANCE, batch, image

from bench.cli import main
from bench.store import Store

KEY = CELL["key"]


def ask(path: Path, *options: str) -> str:
    done = CliRunner().invoke(main, ["status", "--db", str(path), *options])
    assert done.exit_code == 0, done.output
    return done.output


def fill(path: Path) -> None:
    """A cell of quickstart with one of two batches stored and one held; one of another grid that failed."""
    with Store(path) as store:
        store.add_cell(CELL)
        store.start_run(KEY, **PROVENANCE)
        held = store.claim_unit(1, batches=2, gates=False, lease=600.0)
        store.save_batch(1, batch(0), [image(42), image(7)], claim=held)
        store.claim_unit(1, batches=2, gates=False, lease=600.0)
        store.add_cell({**CELL, "key": "ff00", "seed": 1, "grid": "mine"})
        store.fail_cell("ff00", ValueError("no such weights"), PROVENANCE)


def test_each_grid_has_its_own_counts_and_rate(tmp_path: Path) -> None:
    fill(path := tmp_path / "r.sqlite")
    text = ask(path)
    assert "2 cells in" in text
    assert "quickstart: 1 running; 1 of 2 batches, 2 of 4 images; " in text and "left at this rate." in text
    assert "00112233 diffpure_sde pgd_eot batch 1: " in text and "lease ends in 10 min" in text
    assert "mine: 1 failed; 0 of 2 batches, 0 of 4 images." in text  # the other grid's rate is not its own
    assert "ff00 diffpure_sde pgd_eot failed: no such weights" in text


def test_a_cell_that_nobody_works_on_is_broken_off(tmp_path: Path) -> None:
    fill(path := tmp_path / "r.sqlite")
    with Store(path) as store:
        (claim,) = store.claims()
        with store._writing() as connection:
            connection.exec_driver_sql("DELETE FROM claims")
    text = ask(path)
    assert "quickstart: 1 broken off; 1 of 2 batches" in text and claim["holder"] not in text


def test_cells_that_nobody_has_begun_count_and_watching_ends_with_the_grid(tmp_path: Path) -> None:
    path, grid = tmp_path / "r.sqlite", tmp_path / "small.py"
    grid.write_text("""
from bench.cell import Cell
from bench.attacks.clean import Clean
from bench.threat import ThreatModel
from defenses.undefended import Undefended

def cells():
    for seed in range(3):
        yield Cell(dataset="digits", classifier="digits_cnn", score=None, defense=Undefended(), attack=Clean(),
                   threat=ThreatModel(epsilon=3 / 16), num_images=8, batch_size=4, draws=1, seed=seed)
""")
    Store(path).close()
    assert "small: 3 waiting; 0 of 6 batches, 0 of 24 images." in ask(path, "--grid", str(grid))
    done = CliRunner().invoke(main, ["run", "--grid", str(grid), "--db", str(path), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "small: 3 done; 6 of 6 batches, 24 of 24 images." in ask(path, "--grid", str(grid), "--watch")
