"""`bench run --on`, `--budget` and `--part`: what is told, and that what is told is what runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from bench.commands.budgeting import parse_time
from bench.commands.choose import chosen
from bench.run.bill import Cost, Done, price_groups
from bench.run.cards import CARDS
from bench.run.modelled import OnCard
from bench.store import Store

GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.median_blur import MedianBlur
from defenses.undefended import Undefended

def cells():
    for seed in (4, 9):
        for defense in (Undefended(), MedianBlur()):
            yield Cell(
                dataset="digits", classifier="digits_cnn", score=None, defense=defense, num_images=8, seed=seed,
                attack=PGDEOT(steps=200, eot=1), threat=ThreatModel(epsilon=3 / 16), tier="quick",
            )
"""


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "two_seeds.py"
    path.write_text(GRID)
    return path


def test_a_forecast_for_a_card_needs_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    filters = ("--filter", "defense=adversarial_training", "--filter", "data_seed=0", "--protocol", "strong")
    db = ("--db", tmp_path / "none.sqlite")
    text = bench("run", "--grid", "paper_tables", *filters, "--limit", 6, "--dry-run", "--on", "h100", *db).output
    assert "on one H100 (modelled from counted operations, not measured; " in text and "missing" not in text
    tables = [line for line in text.splitlines() if line.startswith("Table ")]
    assert len(tables) == 2 and "autoattack-linf-wrn-28-10" in tables[0] and "gates included" in tables[0]
    assert "By the precision of the attacks" in text and "tf32" in text


def test_what_fits_a_budget_is_what_runs(grid: Path, tmp_path: Path) -> None:
    costs = price_groups(chosen(str(grid)), Done(None), OnCard(CARDS["h100"]))
    whole = sum((priced.cost for priced in costs), Cost()).seconds
    budget, path = ("--budget", f"{0.85 * whole / 60:.12f}min", "--on", "h100"), tmp_path / "r.sqlite"
    told = bench("run", "--grid", grid, "--db", path, *budget, "--dry-run")
    assert "Given up: seeds: 1 of at most 2" in told.output and not path.exists()
    assert "The same part again, in place of --budget: --part seeds=1" in told.output
    ran = bench("run", "--grid", grid, "--db", path, *budget, "--device", "cpu", "--no-evidence")
    assert ran.exit_code == 0 and "Given up: seeds" in ran.output, ran.output
    with Store(path, readonly=True) as store:
        rows = store.query("SELECT defense, seed FROM results ORDER BY defense")[1]
    assert [tuple(row) for row in rows] == [("median_blur", 4), ("undefended", 4)]
    again = bench("worker", "--grid", grid, "--db", path, "--part", "seeds=1", "--device", "cpu", "--no-evidence")
    assert again.exit_code == 0, again.output
    with Store(path, readonly=True) as store:
        assert store.last_run() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--on", "h100"), "Add --dry-run or --budget"),
        (("--budget", "2h", "--limit", "3"), "Leave --part and --limit out"),
        (("--budget", "2h", "--part", "seeds=1"), "Leave --part and --limit out"),
        (("--budget", "2 fortnights"), "Expected a time such as 90min, 2000h or 3d, got '2 fortnights'"),
        (("--part", "seed=1", "--dry-run"), "Expected a part such as"),
        (("--budget", "0.0000000001min", "--on", "h100"), "Expected a budget of at least"),
    ],
)
def test_mistakes_are_told(grid: Path, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    told = bench("run", "--grid", grid, "--db", tmp_path / "r.sqlite", *arguments)
    assert told.exit_code == 2 and message in told.output.replace("\n", " ")


def test_times() -> None:
    assert [parse_time(text) for text in ("90min", "2000h", "1.5 d")] == [5400, 7.2e6, 129600]
