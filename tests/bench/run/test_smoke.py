"""The smoke run: the whole of a grid on toy networks, marked so that no report takes it for a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from bench.attacks._short import at_most, cut_short
from bench.cli import main
from bench.datasets import DATASETS
from bench.grids import grid_cells
from bench.run.prepare import Loader
from bench.run.smoke import toy_cell, toy_cells, toy_world
from bench.store import Store
from bench.store.smoke_mark import SMOKE
from defenses.chain import Chain


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def smoked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which a cell of the paper's grid has run as a toy."""
    path = tmp_path_factory.mktemp("smoke") / "smoke.sqlite"
    chosen = ("--protocol", "paper", "--filter", "attack=eotpgd_10", "--filter", "defense=contrastive", "--limit", 1)
    result = bench("run", "--grid", "paper_tables", "--smoke", "--db", path, "--device", "cpu", *chosen)
    assert result.exit_code == 0, result.output
    assert "Smoke: 1 done, 0 failed" in result.output
    return path


def test_rows_carry_the_mark(smoked: Path) -> None:
    with Store(smoked, readonly=True) as store:
        rows = store.results()
        assert len(rows) == 1 and all(row["device"] and row["network_evaluations"] for row in rows)
        assert all(row[name].startswith(SMOKE) for row in rows for name in ("dataset", "classifier", "score"))
    assert not any(name.startswith(SMOKE) for name in DATASETS)


def test_no_report_and_no_result_beside_a_smoke_run(smoked: Path) -> None:
    for command in (("report",), ("report", "--grid", "paper_tables"), ("run", "--limit", 1)):
        result = bench(*command, "--db", smoked)
        assert result.exit_code == 2 and "holds a smoke run" in result.output
    assert bench("query", "SELECT dataset FROM results", "--db", smoked).exit_code == 0


def test_no_smoke_run_beside_results(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    real = bench("run", "--limit", 1, "--num-images", 2, "--db", path, "--device", "cpu")
    assert real.exit_code == 0, real.output
    result = bench("run", "--smoke", "--limit", 1, "--db", path)
    assert result.exit_code == 2 and "holds results" in result.output


def test_toys_cover_every_path_of_the_grid() -> None:
    cells = grid_cells("paper_tables")
    toys = toy_cells(cells)

    def paths(of: list) -> set[tuple[str, ...]]:
        return {
            (c.dataset.removeprefix(SMOKE), c.classifier.removeprefix(SMOKE), c.defense.name, c.attack.name,
             c.threat.norm, c.threat.gradient)
            for c in of
        }  # fmt: skip

    assert paths(toys) == paths(cells) and len(toys) < 200
    assert {toy.num_images for toy in toys} == {2} and all(toy.published is None for toy in toys)


def test_toy_architectures_answer_for_every_class_and_gradients_reach_the_picture() -> None:
    cells = [cell for cell in grid_cells("paper_tables", "paper") if cell.defense.name == "diffpure_sde"]
    firsts = list({cell.classifier: cell for cell in cells}.values())
    with toy_world(firsts):
        loader = Loader(torch.device("cpu"))
        for toy in toy_cells(firsts):
            prepared = loader.prepare(toy)
            images, labels, _ = prepared.batch(slice(0, 2))
            images.requires_grad_()
            logits = prepared.classifier(images)
            assert (logits.argmax(1) == labels).all() and logits.shape[1] == prepared.data.classes
            logits[:, 0].sum().backward()
            assert images.grad is not None and images.grad.abs().sum() > 0
            assert prepared.score.image_shape[-1] in (32, 36)  # type: ignore[union-attr]


def test_the_networks_of_a_defense_and_of_its_members_become_toys() -> None:
    cell = next(cell for cell in grid_cells("digits_defenses") if cell.defense.name == "contrastive")
    guided = dataclasses.replace(cell.defense, guide="digits_cnn_at")
    toy = toy_cell(dataclasses.replace(cell, defense=guided), "quick")
    assert toy.defense.guide == SMOKE + "digits_cnn_at"  # type: ignore[attr-defined]
    chain = Chain(members=(("jpeg", {}), ("contrastive", guided.params())))
    toy = toy_cell(dataclasses.replace(cell, defense=chain), "quick")
    assert toy.defense.purifiers[1].guide == SMOKE + "digits_cnn_at"  # type: ignore[attr-defined]


def test_attacks_are_cut_short_for_a_while() -> None:
    with cut_short(2):
        assert at_most(200) == 2 and at_most(1) == 1
    assert at_most(200) == 200


@pytest.mark.slow
def test_the_whole_grid_runs_as_toys(tmp_path: Path) -> None:
    result = bench("run", "--grid", "paper_tables", "--smoke", "--db", tmp_path / "smoke.sqlite", "--device", "cpu")
    assert result.exit_code == 0 and " 0 failed" in result.output, result.output[-2000:]


OWN = """
import torch
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.datasets import DatasetInfo, ImageSet, register_dataset
from bench.threat import ThreatModel
from defenses.bit_depth import BitDepth
from defenses.undefended import Undefended

PIXELS = torch.linspace(0, 1, 6 * 4 * 9 * 14).view(6, 4, 9, 14)


def load(folder, split, download):
    open(r"{read}", "w").close()
    return ImageSet(name="mine_of_smoke", labels=torch.tensor([0, 1, 0, 1, 0, 1]), class_names=("a", "b"),
                    image_shape=(4, 9, 14), read=lambda rows: PIXELS[rows], note="x")


register_dataset(DatasetInfo(name="mine_of_smoke", classes=2, image_shape=(4, 9, 14), source="me", place="none",
                             licence="mine", load=load))


def cells():
    for defense, gradient in ((Undefended(), "exact"), (BitDepth(), "straight_through")):
        for seed in (0, 1):
            yield Cell(dataset="mine_of_smoke", classifier="my_net", defense=defense, attack=PGDEOT(), seed=seed,
                       threat=ThreatModel(epsilon=8 / 255, gradient=gradient), num_images=4)
"""


def test_own_pictures_are_read_and_the_limit_counts_kinds_of_cells(tmp_path: Path) -> None:
    """Of another shape, with a classifier that is not here; the two seeds are one kind."""
    grid, read = tmp_path / "own_of_smoke.py", tmp_path / "was_read"
    grid.write_text(OWN.replace("{read}", str(read)), encoding="utf-8")
    try:
        for limit, done in ((1, 1), (2, 2)):
            db = tmp_path / f"{limit}.sqlite"
            result = bench("run", "--grid", grid, "--smoke", "--db", db, "--device", "cpu", "--limit", limit)
            assert result.exit_code == 0 and f"Smoke: {done} done, 0 failed" in result.output, result.output
        assert read.exists()
    finally:
        del DATASETS["mine_of_smoke"]
