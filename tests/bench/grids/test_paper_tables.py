"""The paper's grid: every cell resolves, its settings are the protocol's line by line, its tables hold it all."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_data import PROVENANCE, SUMMARY, batch, image

from bench.cell import Cell
from bench.cli import main
from bench.grids import grid_cells, noise_level, paper_tables
from bench.literature.publish import read_published
from bench.literature.verdict import GRADIENTS, is_same_attack, verdict
from bench.store import Store

CELLS = grid_cells("paper_tables", "both")
STRONG = grid_cells("paper_tables", "strong")
PAPER = [cell for cell in CELLS if cell.tier == "paper"]
GOLD = [cell for cell in CELLS if cell.tier == "gold"]
GUIDED = [cell for cell in PAPER if cell.defense.name == "contrastive"]
PUBLISHED = {row["key"]: row for row in read_published()}
WRN28 = "robustbench:cifar10:Linf:Standard"
RESNET18 = "imagenet_resnet18"

A = {"guide_from": 0, "guidance_scale": 500.0, "temperature": 1.0}
B = {"guide_from": 40, "guidance_scale": 5000.0, "temperature": 10.0}
C = {"guide_from": 40, "guidance_scale": 500.0, "temperature": 1.0}
COMMON = {"guide_until": 100_000, "loss": "released_hard", "tau_plus": 0.1, "beta": 1.0, "embedding": True}

# The evaluation scripts of the authors: data set, classifier, attack, norm, epsilon, t, images, batch, set, guide
LINES = [
    ("cifar10", WRN28, "autoattack_rand", "Linf", 0.031373, 0.1, 64, 64, A, None),
    ("cifar10", "diffpure_wrn70_16_dropout", "autoattack_rand", "Linf", 0.031373, 0.1, 64, 64, A, WRN28),
    ("cifar10", WRN28, "autoattack_rand", "L2", 0.5, 0.075, 64, 64, A, None),
    ("cifar10", "diffpure_wrn70_16_dropout", "autoattack_rand", "L2", 0.5, 0.075, 64, 64, A, WRN28),
    ("cifar10", "diffpure_resnet50", "autoattack_rand", "Linf", 0.031373, 0.125, 64, 64, A, WRN28),
    ("cifar10", "diffpure_resnet50", "autoattack_rand", "L2", 1.0, 0.125, 64, 64, A, WRN28),
    ("cifar10", WRN28, "bpda_eot", "Linf", 0.031373, 0.1, 200, 10, B, None),
    ("gtsrb", "gtsrb_resnet18", "autoattack_rand", "Linf", 0.031373, 0.1, 64, 64, C, None),
    ("gtsrb", "gtsrb_resnet18", "autoattack_rand", "L2", 0.5, 0.075, 64, 64, C, None),
    ("gtsrb", "gtsrb_resnet18", "bpda_eot", "Linf", 0.031373, 0.1, 10, 10, B, None),
    ("cifar100", "cifar100_wrn28_10", "autoattack_rand", "Linf", 0.031373, 0.1, 64, 64, C, None),
    ("cifar10", WRN28, "eotpgd_10", "Linf", 0.031373, 0.1, 64, 64, A, None),
    ("cifar100", "cifar100_wrn28_10", "eotpgd_10", "Linf", 0.031373, 0.1, 64, 64, A, None),
    ("imagenet", "imagenet_resnet50", "eotpgd_10", "Linf", 0.0157, 0.1, 16, 16, A, RESNET18),
    ("imagenet", "imagenet_xcit_s24", "eotpgd_10", "Linf", 0.0157, 0.1, 16, 16, A, RESNET18),
    ("imagenet", "imagenet_resnet50", "autoattack_rand", "Linf", 0.0157, 0.15, 16, 4, C, RESNET18),
    ("imagenet", "imagenet_wrn50_2", "autoattack_rand", "Linf", 0.0157, 0.15, 16, 4, C, RESNET18),
    ("imagenet", "imagenet_deit_s", "autoattack_rand", "Linf", 0.0157, 0.15, 16, 4, C, RESNET18),
]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("line", LINES, ids=lambda line: "-".join(map(str, line[:5])))
def test_the_guided_cells_have_the_settings_of_the_protocol(line: tuple) -> None:
    dataset, classifier, attack, norm, epsilon, t, images, batch, guidance, guide = line
    wanted = {**COMMON, **guidance, "t": t, "guide": guide, "solver": "sde", "steps": None}
    found = [
        cell
        for cell in GUIDED
        if (cell.dataset, cell.classifier, cell.attack.name) == (dataset, classifier, attack)
        and (cell.threat.norm, cell.threat.epsilon, cell.threat.gradient) == (norm, epsilon, "straight_through")
        and wanted.items() <= cell.defense.params().items()
    ]
    seeds, data_seeds = ((121, 122), 32) if dataset == "imagenet" else ((121, 122, 123), 8)
    assert sorted((c.seed, c.data_seed) for c in found) == [(s, d) for s in seeds for d in range(data_seeds)]
    assert {(c.num_images, c.batch_size) for c in found} == {(images, batch)}


def test_the_attacks_have_the_settings_of_the_protocol() -> None:
    params = {cell.attack.name: cell.attack.params() for cell in PAPER}
    assert params["eotpgd_10"] == {"steps": 10, "step_size": 2 / 255, "eot": 20, "random_start": True}
    assert params["bpda_eot"] == {"steps": 50, "step_size": 2 / 255, "eot": 15, "defense_replicates": 150}
    assert params["stadv"].items() >= {"steps": 100, "bound": 0.05, "eot": 20}.items()
    assert params["autoattack_rand"] == params["autoattack_standard"] == {}


def test_the_ablations_are_there() -> None:
    losses = {cell.defense.loss for cell in GUIDED}  # type: ignore[attr-defined]
    assert losses == {"released_hard", "released_soft", "infonce", "ntxent", "hard_negatives"}
    ode = [cell for cell in GUIDED if cell.defense.solver == "ode"]  # type: ignore[attr-defined]
    assert {cell.published for cell in ode} == {"bai2024contrastive-13"}
    on = {c.threat.gradient for c in PAPER if c.attack.name == "eotpgd_10" and c.defense.name == "diffpure_sde"}
    assert on == {"exact", "straight_through"}


def test_gold_has_the_exact_gradient_the_stated_radius_and_hundred_draws() -> None:
    assert {cell.threat.gradient for cell in GOLD} == {"exact"}
    assert {cell.threat.epsilon for cell in GOLD} == {8 / 255, 4 / 255, 0.5, 1.0, 0.05}
    assert {cell.attack.name for cell in GOLD} == {"gold", "stadv"}
    assert {cell.judging_draws for cell in GOLD} == {1, 100}
    assert {cell.num_images for cell in GOLD} == {64, 16}


def test_strong_stands_where_gold_does_and_is_the_default() -> None:
    assert {cell.tier for cell in STRONG} == {"strong"} and {cell.attack.name for cell in STRONG} == {"strong", "stadv"}
    same = [replace(cell, tier="gold", attack=gold.attack) for cell, gold in zip(STRONG, GOLD, strict=True)]
    assert [cell.key for cell in same] == [cell.key for cell in GOLD]
    assert grid_cells("paper_tables") == [*PAPER, *STRONG]
    assert {cell.tier for cell in grid_cells("noise_level")} == {"paper", "strong"}


def test_every_paper_row_has_its_gold_row() -> None:
    def places(cells: list[Cell]) -> set[tuple]:
        return {(c.dataset, c.classifier, c.defense, c.threat.norm, round(c.threat.epsilon, 3)) for c in cells}

    assert places(PAPER) == places(GOLD)
    assert grid_cells("paper_tables", "paper") == PAPER and grid_cells("paper_tables", "gold") == GOLD


def test_every_cell_comes_back_from_its_row() -> None:
    firsts = [next(group) for _, group in groupby(CELLS, lambda cell: (cell.classifier, cell.defense, cell.attack))]
    for cell in firsts:
        assert Cell.from_row(cell.row()).key == cell.key
    assert len({cell.key for cell in CELLS}) == len(CELLS)


def test_every_model_is_known() -> None:
    from bench.datasets import dataset_info
    from bench.run.prepare import names_of
    from defenses.models.classifiers import classifier_info
    from defenses.models.scores import score_info

    names = [names_of(cell) for cell in CELLS]
    for classifier in {name for classifiers, _ in names for name in classifiers}:
        assert classifier_info(classifier).datasets
    for score in {name for _, scores in names for name in scores}:
        assert score_info(score).datasets
    for dataset in {cell.dataset for cell in CELLS}:
        assert dataset_info(dataset).classes >= 10


def test_published_numbers_are_those_of_the_same_experiment() -> None:
    words = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "gtsrb": "GTSRB", "imagenet": "ImageNet"}
    keys = {cell.published for cell in PAPER if cell.published}
    assert {f"bai2024contrastive-{n}" for n in (3, 4, 5, 6, *range(7, 26))} <= keys
    for cell in PAPER:
        if cell.published:
            known = PUBLISHED[cell.published]
            assert known["dataset"] == words[cell.dataset] and known["norm"] == cell.threat.norm
            assert known["epsilon"] == pytest.approx(cell.threat.epsilon, rel=2e-3)
            assert is_same_attack(cell.attack.name, cell.attack.params(), known)
            beside = {**cell.row(), "robust_accuracy": 50.0, "robust_low": 40.0, "robust_high": 60.0}
            assert "classifier" not in verdict(beside, known)[1]
    assert all(cell.published is None for cell in GOLD)


@pytest.mark.parametrize("protocol", ["both", "quick"])
def test_a_table_shows_the_published_numbers_of_its_own_experiments(protocol: str) -> None:
    """One small cell stands for rows of several tables, each with another number in the paper."""
    from bench.grids._experiment import cells_of

    shown = set()
    for table in paper_tables.GRID.tables:
        own = [e for e in paper_tables.EXPERIMENTS if table.name.startswith(e.table)]
        allowed = {PUBLISHED[row.published]["robust_acc"] for e in own for row in e.rows if row.published} | {None}
        for cell in cells_of(own, protocol)[::5]:
            number = table.overrides({**cell.row(), "robust_accuracy": None})["published_robust"]
            assert number in allowed
            shown.add((table.name, number))
    if protocol == "quick":
        assert ("gradient", 70.64) not in shown and ("sampler", 84.38) not in shown


def test_a_leaderboard_number_stands_beside_its_own_model() -> None:
    for cell in PAPER:
        if cell.defense.name == "adversarial_training" and cell.published and cell.attack.name != "bpda_eot":
            known, model = PUBLISHED[cell.published], cell.defense.model  # type: ignore[attr-defined]
            assert known["defense"] == model.rpartition(":")[2] and GRADIENTS[known["gradient_access"]] == "exact"


def test_each_cell_is_in_a_table() -> None:
    import pandas as pd

    from bench.report.frames import cells_of

    rows = cells_of(pd.DataFrame([{**cell.row(), "cell_key": cell.key} for cell in (*CELLS[::7], *STRONG[::7])]))
    for row in rows:
        assert any(table.only(row) for table in paper_tables.GRID.tables)
    ode = next(row for row in rows if row["defense"] == "diffpure_ode")
    assert [table.name for table in paper_tables.GRID.tables if table.only(ode)] == ["sampler"]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.store import make_database

    path = tmp_path_factory.mktemp("db") / "empty.sqlite"
    make_database(path)
    return path


def test_the_tables_show_dashes_before_anything_ran(db: Path) -> None:
    text = bench("report", "--grid", "paper_tables", "--db", db, "--format", "markdown").output
    assert [int(n) for n in re.findall(r"\*\*Table (\d+)\. ", text)] == list(range(1, 18))
    assert text.count("| – |") > 100 and "nan" not in text.lower() and "None" not in text
    assert "82.8" in text and "not quoted" in text and "inferred" in text and "unknown" in text


def test_a_cell_that_another_grid_ran_is_judged_beside_the_paper(tmp_path: Path) -> None:
    cell = next(c for c in grid_cells("paper_tables", "quick") if c.published == "bai2024contrastive-12")
    with Store(tmp_path / "r.sqlite") as store:
        store.add_cell({**cell.row(), "grid": "cifar10_small", "published_key": None})
        run = store.start_run(cell.key, **PROVENANCE)
        store.save_batch(run, batch(0), [image(index, 7) for index in range(cell.num_images)])
        store.finish_run(run, **SUMMARY)
    table = ("--grid", "paper_tables", "--protocol", "quick", "--table", "sampler")
    text = bench("report", *table, "--db", tmp_path / "r.sqlite", "--format", "markdown").output
    assert "82.8 n/c" in text and "classifier: measured ResNet-56, published WideResNet-28-10" in text
    assert "69.8 n/c" not in text  # that one has not run
    assert "Quick protocol: ours on small networks" in text


@pytest.mark.parametrize("form", ["text", "html", "json"])
def test_one_table_in_every_format(db: Path, form: str) -> None:
    result = bench("report", "--grid", "paper_tables", "--table", "sampler", "--db", db, "--format", form)
    assert result.exit_code == 0, result.output
    assert ("VP-ODE" in result.output or "ODE" in result.output) and "69.8" in result.output.replace("69.79", "69.8")


def test_a_wrong_table_or_protocol_is_answered_with_a_remedy(db: Path) -> None:
    result = bench("report", "--grid", "paper_tables", "--table", "sampl", "--db", db)
    assert result.exit_code == 2 and "Did you mean 'sampler'?" in result.output
    result = bench("run", "--grid", "quickstart", "--protocol", "gold", "--dry-run")
    assert result.exit_code == 2 and "one protocol only" in result.output


def test_csv_holds_the_rows_of_one_table_and_every_column(db: Path) -> None:
    """Before anything ran, too."""
    import csv
    import io

    table = ("--grid", "paper_tables", "--table", "sampler", "--db", db, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(bench("report", *table).output)))
    assert 0 < len(rows) < 500 and all("sampler" in row["tables"].split() for row in rows)
    assert {"robust_accuracy", "clean_accuracy", "verdict", "published_robust"} <= rows[0].keys()


def test_a_lone_model_keeps_its_name(db: Path) -> None:
    table = ("--grid", "paper_tables", "--table", "autoattack-imagenet", "--db", db, "--format", "markdown")
    text = bench("report", *table).output
    assert "adversarial training (Salman2020Do_50_2, Linf)" in text and "adversarial_training" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex not installed")
def test_the_latex_of_all_tables_compiles(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "tables.tex"
    result = bench("report", "--grid", "paper_tables", "--db", db, "--format", "latex", "--output", file)
    assert result.exit_code == 0, result.output
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def test_dry_run_lists_cells_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    result = bench("run", "--grid", "paper_tables", "--dry-run", "--db", tmp_path / "r.sqlite", "--protocol", "paper")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    guided = next(line for line in lines if "imagenet_xcit_s24 contrastive" in line)
    assert ", 64 runs: at least" in guided and "missing imagenet, imagenet_xcit_s24, imagenet_resnet18" in guided
    # 64 runs of 16 images: (10 steps x 20 draws + 3 x 10 judging draws + 10 clean looks) x 100 network calls
    assert f"at least {64 * 16 * 250 * 100:.3g}" in guided
    assert sum(line.startswith("Missing guided256: ") for line in lines) == 1
    labels = [line.split("  ", 1)[1].partition(": ")[0] for line in lines if ": at least" in line]
    assert len(labels) == len(set(labels)) > 50
    assert lines[-1].startswith("The cells whose files are missing need at least ") and "`bench fetch`" in lines[-1]
    assert not (tmp_path / "r.sqlite").exists()


def test_the_noise_level_grid_sweeps_t_with_set_c(db: Path) -> None:
    cells = grid_cells("noise_level", "paper")
    guided = [cell.defense.params() for cell in cells if cell.defense.name == "contrastive"]
    assert {params["t"] for params in guided} == set(noise_level.TIMES)
    assert all((C | COMMON).items() <= params.items() for params in guided)
    drawn = bench("report", "--grid", "noise_level", "--format", "svg", "--db", db).output
    assert "not run" in drawn


def test_a_kill_loses_at_most_a_quarter_of_a_cell() -> None:
    for cell in grid_cells("paper_tables", "strong"):
        assert cell.batch_coupled or cell.batch_size <= 16, cell
