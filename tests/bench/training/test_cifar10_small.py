"""CIFAR-10 on small networks: the grids, the shipped networks against their records, adversarial training."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.cell import Cell
from bench.datasets import ImageSet, MissingData, load_dataset
from bench.grids import grid_cells
from bench.training import classifier_recipe
from bench.training.classifier import PGD, accuracy
from bench.training.classifier_recipe import PLAN, cropped, fit, parse_attack
from bench.training.long import Plan
from bench.training.recipes import train
from bench.training.score import losses_by_time
from defenses.models.classifiers import classifier_info, load_classifier
from defenses.models.features import features
from defenses.models.networks.block_resnet import block_resnet
from defenses.models.scores import load_score, score_info
from defenses.models.weights import ASSETS, asset_record

CELLS = grid_cells("cifar10_small")


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    try:
        data = load_dataset("cifar10")
    except MissingData as error:
        pytest.skip(f"needs CIFAR-10: {error}")
    return data.images(range(250)), data.labels[:250]


def test_the_paper_on_small_networks_is_part_of_the_grid() -> None:
    keys = {cell.key for cell in CELLS}
    quick = grid_cells("paper_tables", "quick")
    assert quick and {cell.key for cell in quick} <= keys
    assert any(cell.published for cell in quick)
    for cell in quick:
        assert cell.tier == "quick" and cell.dataset == "cifar10" and cell.classifier == "cifar_resnet56"
        assert cell.published is None or cell.defense.name != "adversarial_training"


def test_the_sweep_is_about_the_defenses_of_the_comparison() -> None:
    sweep = grid_cells("cifar10_noise_level")
    defenses = {cell.defense for cell in CELLS if cell.attack.name == "pgd_eot"}
    assert sum(cell.defense in defenses for cell in sweep) == 4  # at t = 0.1 and, for L2, 0.075
    assert min(cell.defense.t for cell in sweep) == 0.02 and max(cell.defense.t for cell in sweep) == 0.25  # type: ignore[attr-defined]


def test_defenses_that_are_compared_see_the_same_pictures_under_the_same_attack() -> None:
    def same(cell: Cell) -> tuple:
        return cell.num_images, cell.data_seed, cell.seed, cell.draws, cell.attack, cell.threat.epsilon

    attacked = [c for c in CELLS if c.attack.name == "pgd_eot"]
    for norm in ("Linf", "L2"):
        assert len({same(c) for c in attacked if c.threat.norm == norm and c.defense.stochastic}) == 1


@pytest.mark.parametrize("kind", ["score", "classifier"])
def test_the_shipped_files_are_those_of_their_records(kind: str) -> None:
    info = score_info("cifar10_small") if kind == "score" else classifier_info("cifar10_small_at")
    (record,) = asset_record(f"cifar10/{kind}")["files"].values()
    assert info.weights_sha256() == record["sha256"] and info.find().stat().st_size == record["bytes"]
    assert (
        sum(file.stat().st_size for file in ASSETS.rglob("*.safetensors")) < 24 * 2**20
    )  # more stays out of the wheel


def test_the_score_network_repeats_the_losses_of_its_record(pictures: tuple) -> None:
    (record,) = asset_record("cifar10/score")["files"].values()
    found = losses_by_time(load_score("cifar10_small").network, pictures[0], (0.05, 0.1))  # type: ignore[union-attr]
    for t, loss in found.items():
        assert loss == pytest.approx(record["loss_test"][t], rel=0.06)  # 250 of the 1,000 pictures


def test_the_trained_classifier_repeats_the_accuracy_of_its_record(pictures: tuple) -> None:
    (record,) = asset_record("cifar10/classifier")["files"].values()
    found = 100 * accuracy(load_classifier("cifar10_small_at"), *pictures)
    assert record["clean_accuracy"] == pytest.approx(found, abs=8)  # 2.5 standard errors of 250 pictures
    assert record["clean_accuracy"] > record["pgd20_accuracy"] > 20


def test_crops_are_crops() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8) + 1
    out = cropped(images.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert out.shape == (400, 3, 8, 8) and out.dtype == torch.uint8
    whole = [any(torch.equal(o, v) for v in (images[k % 2], images[k % 2].flip(2))) for k, o in enumerate(out)]
    assert 4 < sum(whole) < 40  # one in 25 is not moved
    black = (out == 0).all(1)
    assert black.any() and not black.all()
    assert {int(v) for v in out.unique()} <= {0, *images.unique().tolist()}
    straight = cropped(images.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0), mirror=False)
    same = (straight == out).flatten(1).all(1)
    assert 100 < int(same.sum()) < 300  # half of them were mirrored


def test_a_classifier_refuses_pictures_that_it_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"colour pictures .* got 1 x 8 x 8 of digits"):
        train("classifier", dataset="digits", output=tmp_path)


@pytest.mark.parametrize(
    "text", ["Linf", "L1:0.5", "Linf:a lot", "", "Linf:8", "Linf:0", "L2:-1", "L2:1/0", "Linf:not_stated"]
)
def test_a_wrong_threat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        parse_attack(text)


def test_threats() -> None:
    assert parse_attack("none") is None
    assert parse_attack("Linf:8/255") == PGD(norm="Linf", epsilon=8 / 255, steps=2)
    assert parse_attack("L2:0.5") == PGD(norm="L2", epsilon=0.5, steps=2)


@pytest.mark.parametrize("attack", [None, PGD(norm="Linf", epsilon=2 / 255, steps=2)], ids=["plain", "adversarial"])
def test_a_few_steps_lower_the_loss_of_a_classifier(attack: PGD | None, tmp_path: Path) -> None:
    """Ten flat colours are easy to tell apart."""
    labels = torch.arange(200) % 10
    images = ((labels + 0.5) * 25).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    torch.manual_seed(0)
    losses: list[float] = []
    plan = Plan(steps=40, batch_size=50, warm_up=5, learning_rate=0.02, other_rate=0.02)
    fitted, _ = fit(
        block_resnet([16, 16, 16], 1), images, labels, attack, plan, seed=0, what="toy", checkpoint=tmp_path / "c.pt",
        progress=lambda what, step, total, loss: losses.append(loss),
    )  # fmt: skip
    assert len(losses) == 40 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert not any(p.requires_grad for p in fitted.parameters()) and PLAN.steps > 1000


def test_a_trained_classifier_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = replace(classifier_recipe.KINDS["blocks"], arguments={"widths": [16, 16], "blocks": 1})
    monkeypatch.setitem(classifier_recipe.KINDS, "blocks", blocks)
    monkeypatch.setattr(classifier_recipe, "PLAN", Plan(steps=2, batch_size=10, warm_up=1))
    images = torch.rand(20, 3, 16, 16)
    data = ImageSet(
        name="toy", labels=torch.arange(20) % 4, class_names=tuple("abcd"), image_shape=(3, 16, 16),
        read=lambda rows: images[rows],
    )  # fmt: skip
    record = classifier_recipe.train_classifier(
        data, data, tmp_path, adversarial="L2:0.5", seed=0, effort=1.0, progress=lambda *told: None
    )
    (tmp_path / "record.json").write_text(json.dumps(record))
    path = tmp_path / "toy_at_l2.safetensors"
    info = classifier_info(f"file:blocks:{path}")
    assert info.datasets == ("toy",) and info.clean_accuracy == record["files"][path.name]["clean_accuracy"]
    logits = load_classifier(f"file:blocks:{path}", "toy")(images)
    assert logits.shape == (20, 4) and logits.dtype == torch.float32
    path.write_bytes(b"altered")
    with pytest.raises(ValueError, match="truncated or altered"):
        load_classifier(f"file:blocks:{path}")


@pytest.mark.parametrize(("network", "shape"), [("resnet20", (3, 16, 16)), ("cnn", (1, 12, 12))])
def test_the_other_networks_are_read_back_by_their_record(
    network: str, shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_recipe, "PLAN", Plan(steps=2, batch_size=10, warm_up=1))
    images = torch.rand(20, *shape)
    data = ImageSet(
        name="toy", labels=torch.arange(20) % 4, class_names=tuple("abcd"), image_shape=shape,
        read=lambda rows: images[rows],
    )  # fmt: skip
    record = classifier_recipe.train_classifier(
        data, data, tmp_path, adversarial="none", seed=0, effort=1.0, progress=lambda *told: None, network=network
    )
    (tmp_path / "record.json").write_text(json.dumps(record))
    path = tmp_path / f"toy_{network}_plain.safetensors"
    loaded = load_classifier(f"file:blocks:{path}", "toy")
    assert loaded(images).shape == (20, 4) and len(features(loaded, images)) == 3
    assert 100 * accuracy(loaded, images, data.labels) == record["files"][path.name]["clean_accuracy"]
    wrong = replace(data, image_shape=(2, *shape[1:]))
    with pytest.raises(ValueError, match=r"got 2 x \d+ x \d+ of toy. `--network` knows blocks, resnet20, cnn"):
        classifier_recipe.train_classifier(
            wrong, wrong, tmp_path, adversarial="none", seed=0, effort=1.0, progress=print, network=network
        )
    with pytest.raises(LookupError, match="Did you mean 'resnet20'"):
        classifier_recipe.train_classifier(
            data, data, tmp_path, adversarial="none", seed=0, effort=1.0, progress=print, network="resnet2"
        )


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "error"), [(20, 8.27), (32, 7.37), (44, 6.90), (56, 6.61)])
def test_the_public_resnets_have_their_published_error(depth: int, error: float) -> None:
    """The table of their repository: errors of 8.27, 7.37, 6.90 and 6.61 percent on all 10,000 pictures."""
    if "BENCH_DATA_DIR" not in os.environ:
        pytest.skip("needs CIFAR-10 and the four classifiers in BENCH_DATA_DIR")
    data, network = load_dataset("cifar10"), load_classifier(f"cifar_resnet{depth}")
    parts = torch.arange(10_000).split(500)
    right = sum(round(500 * accuracy(network, data.images(part), data.labels[part])) for part in parts)
    assert 100 - right / 100 == pytest.approx(error, abs=0.015)  # the table rounds


def test_training_again_reproduced_the_records_losses() -> None:
    """The same recipe and seed on another processor: rounding differs from the first step on, the losses hardly do."""
    first, again = (asset_record("cifar10/score", name) for name in ("record", "repeated"))
    assert [first[key] for key in ("recipe", "seed", "effort", "dataset")] == [
        again[key] for key in ("recipe", "seed", "effort", "dataset")
    ]
    (a,), (b,) = first["files"].values(), again["files"].values()
    assert all(a[key] == b[key] for key in ("network", "parameters", "steps", "batch_size"))
    for split in ("loss_train", "loss_test"):
        assert b[split] == pytest.approx(a[split], rel=0.01)


def test_a_longer_training_began_where_the_first_ended_and_lowered_every_loss_a_little() -> None:
    first, further = (asset_record("cifar10/score", name) for name in ("record", "further"))
    (was,), (now,) = (record["files"].values() for record in (first, further))
    assert further["score"] == "cifar10_small" and further["score_sha256"] == was["sha256"]
    assert now["network"] == was["network"] and (was["steps"], now["steps"]) == (4000, 3000)
    for split in ("loss_train", "loss_test"):
        assert all(0.97 < now[split][t] / was[split][t] < 1 for t in was[split])
