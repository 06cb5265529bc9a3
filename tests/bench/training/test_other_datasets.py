"""The small networks of the other data sets against their records, and the grid that attacks them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.datasets import dataset_info, load_dataset
from bench.grids import grid_cells, load_grid
from bench.grids.other_datasets import SETTINGS, Setting
from bench.training.classifier import accuracy
from defenses.models.classifiers import check_dataset, classifier_info, load_classifier
from defenses.models.features import features
from defenses.models.scores import score_info
from defenses.models.weights import asset_record

CELLS = grid_cells("other_datasets")
by_dataset = pytest.mark.parametrize("setting", SETTINGS, ids=[setting.dataset for setting in SETTINGS])


def record_of(setting: Setting) -> dict:
    (record,) = asset_record(setting.dataset)["files"].values()
    return record


@by_dataset
def test_the_shipped_files_are_those_of_their_records(setting: Setting) -> None:
    info, record = classifier_info(setting.classifier), record_of(setting)
    made = asset_record(setting.dataset)
    assert info.weights_sha256() == record["sha256"] and info.find().stat().st_size == record["bytes"] < 600_000
    assert info.datasets == (made["dataset"]["name"],) == (setting.dataset,) and info.licence == "Apache-2.0"
    assert record["parameters"] <= 280_000
    network = made["recipe"], record["architecture"]
    assert network == ("classifier", "small_cnn" if "mnist" in setting.dataset else "cifar_resnet")
    assert info.source.startswith(f"bench train classifier --dataset {setting.dataset} --network ")
    assert info.source.endswith(f"--effort {made['effort']:g} (this package)")
    assert info.clean_accuracy == record["clean_accuracy"]


@by_dataset
def test_a_classifier_repeats_the_accuracy_of_its_record(
    setting: Setting, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    data, network = load_dataset(setting.dataset), load_classifier(setting.classifier, setting.dataset)
    rows = range(0, len(data), max(1, len(data) // 400))  # some data sets are sorted by class
    images, labels = data.images(rows), data.labels[list(rows)]
    published = record_of(setting)["clean_accuracy"] / 100
    spread = max(0.01, 3.5 * math.sqrt(published * (1 - published) / len(rows)))
    assert abs(accuracy(network, images, labels) - published) < spread
    assert len(features(network, images[:2])) == 3  # what contrastive guidance looks at


def test_a_network_of_test_pictures_answers_for_the_fifth_alone() -> None:
    """It was trained on the other four fifths of the test split, so CIFAR-100 itself must be refused."""
    info = classifier_info("cifar100_resnet20")
    assert info.datasets == ("cifar100_fifth",) and "test pictures" in info.title
    with pytest.raises(ValueError, match="Expected a classifier of cifar100, got 'cifar100_resnet20'"):
        check_dataset("cifar100_resnet20", "cifar100")
    record = asset_record("cifar100_fifth")
    assert record["dataset"]["train_images"] == 8000 and "four of five" in record["dataset"]["note"]
    assert "no published number" in dataset_info("cifar100_fifth").source


def test_what_is_compared_sees_the_same_pictures_under_the_same_attack() -> None:
    def same(cell: Cell) -> tuple:
        return (cell.classifier, cell.num_images, cell.data_seed, cell.seed, cell.draws, cell.attack,
                cell.threat.epsilon, cell.threat.norm, cell.tier)  # fmt: skip

    for setting in SETTINGS:
        cells = [cell for cell in CELLS if cell.dataset == setting.dataset]
        assert len({same(cell) for cell in cells}) == 1
        kinds = {(cell.defense.name, cell.threat.gradient) for cell in cells}
        assert {
            ("undefended", "exact"),
            *((name, kind) for name in ("diffpure_ode", "contrastive") for kind in ("straight_through", "exact")),
            ("contrastive", "guidance_detached"),
        } <= kinds
        assert cells[0].num_images == 64 and cells[0].draws == 3 and cells[0].tier == "quick"
        attack = cells[0].attack
        assert isinstance(attack, PGDEOT) and (attack.steps, attack.eot) == (10, 1)
    assert {cell.dataset for cell in CELLS} == {setting.dataset for setting in SETTINGS}


def test_a_borrowed_score_network_is_said_in_the_table() -> None:
    tables = {table.name: table.caption for table in load_grid("other_datasets").tables}
    assert list(tables) == [setting.dataset for setting in SETTINGS]
    for setting in SETTINGS:
        own = setting.dataset in score_info(setting.score).datasets
        assert own == ("never saw a picture" not in tables[setting.dataset])
    assert "four fifths of the test split" in tables["cifar100_fifth"]
