"""`bench.evaluate`: whatever holds pictures and networks, by the protocol of every other cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bench
from bench.api.given_networks import hash_network
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.datasets import load_dataset
from bench.threat import ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.diffpure_sde import DiffPureSDE
from defenses.gaussian_noise import GaussianNoise
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score
from defenses.undefended import Undefended

EPSILON = 3 / 16
ATTACK = PGDEOT(steps=2, step_size=EPSILON / 2, eot=2)
FAST: dict[str, Any] = {"epsilon": EPSILON, "attack": ATTACK, "draws": 3, "device": "cpu"}
NOISE = GaussianNoise(sigma=0.1)
HELD = load_dataset("digits")
X, Y = HELD.images(range(4)), torch.as_tensor(HELD.labels)[:4]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_classifier("digits_cnn")


class Pictures(Dataset[Any]):
    """As torchvision's without a transform: 8-bit pictures of PIL, and int labels."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        from PIL import Image

        self.asked.append(place)
        return Image.fromarray((X[place, 0].numpy() * 255).round().astype(np.uint8)), int(Y[place])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


FORMS = {
    "arrays": (X.numpy(), Y.numpy()),
    "tensors": (X, Y),
    "doubles and lists": (X.numpy().astype(np.float64), Y.tolist()),
    "a data set": (TensorDataset(X, Y), None),
    "a loader": (DataLoader(TensorDataset(X, Y), batch_size=3), None),
    "a stream": (Stream(), None),
}


@pytest.fixture(scope="module")
def expected(model: nn.Module) -> bench.Result:
    return bench.evaluate(model, X, Y, defense=NOISE, **FAST)


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_the_pictures_gives_the_same_numbers(form: str, model: nn.Module, expected: bench.Result) -> None:
    x, y = FORMS[form]
    result = bench.evaluate(model, x, y, defense=NOISE, **FAST)
    pd.testing.assert_frame_equal(result.images, expected.images)
    assert result.cell.key == expected.cell.key


def test_eight_bit_pictures_are_scaled_and_only_the_sample_is_read(model: nn.Module) -> None:
    pictures = Pictures()
    result = bench.evaluate(model, pictures, num_images=2, **FAST)
    assert len(result.images) == 2 and sorted(pictures.asked) == list(result.images.index)
    eight = (X * 255).round().to(torch.uint8)
    same = bench.evaluate(model, eight, Y, num_images=2, **FAST)
    pd.testing.assert_frame_equal(result.images, same.images)


def test_the_numbers_are_those_of_the_cell_by_name(model: nn.Module, tmp_path: Path) -> None:
    """A network given as an object, on a data set by name, is judged as the grid's cell is."""
    db = tmp_path / "results.sqlite"
    cell = Cell(
        dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=3),
        attack=ATTACK, threat=ThreatModel(epsilon=EPSILON), num_images=4, draws=3,
    )  # fmt: skip
    named = {"defense": cell.defense, "num_images": 4, **FAST}
    by_name = bench.evaluate("digits_cnn", "digits", score="digits_score", db=db, **named)
    given = bench.evaluate(model, "digits", score=load_score("digits_score"), db=db, **named)
    assert by_name.cell.key == cell.key != given.cell.key
    pd.testing.assert_frame_equal(by_name.images, given.images)
    assert {*bench.results(db)["cell_key"]} == {by_name.cell.key, given.cell.key}
    again = bench.evaluate("digits_cnn", "digits", score="digits_score", db=db, **named)
    assert again.row["run_id"] == by_name.row["run_id"]  # measured before; an object is always measured anew
    assert bench.evaluate(model, "digits", score=load_score("digits_score"), db=db, **named).row["run_id"] == 3


def test_a_result_answers_in_percent_and_shows_itself(expected: bench.Result) -> None:
    low, high = expected.interval
    assert low <= expected.robust_accuracy <= high
    images = expected.images
    assert expected.robust_accuracy == pytest.approx(100 * images["robust_correct"].sum() / images["draws"].sum())
    assert expected.clean_accuracy == pytest.approx(100 * images["clean_correct"].sum() / images["draws"].sum())
    assert list(images.index) == [0, 1, 2, 3] and list(images["label"]) == Y.tolist()
    assert (images["distance"] <= EPSILON + 1e-5).all() and expected.gates
    assert "not a robustness claim" in repr(expected) and "own pictures" in repr(expected)
    assert expected._repr_html_().startswith("<table") and "own pictures" in expected._repr_html_()


def test_the_given_network_is_left_as_it_was(model: nn.Module) -> None:
    own = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), nn.Linear(64, 10)).train()
    own[0].eval()
    own[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    bench.evaluate(own, X, Y, **FAST)
    assert own.training and not own[0].training and not own[0][1].training and own[1].training
    assert not own[1].weight.requires_grad and own[1].bias.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert not own._forward_hooks


def test_a_network_of_robustbench(tmp_path: Path) -> None:
    from robustbench.model_zoo.architectures.resnet import BasicBlock, ResNet

    network, x = ResNet(BasicBlock, [1, 1, 1, 1]), torch.rand(2, 3, 32, 32)
    result = bench.evaluate(network, x, torch.tensor([0, 9]), **{**FAST, "epsilon": 8 / 255})
    assert len(result.images) == 2 and result.cell.classifier.startswith("given:ResNet:")


def test_networks_that_answer_differently_have_different_names() -> None:
    def temperature(value: float) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Linear(2, 2)
        network.temperature = value  # type: ignore[assignment]
        return network

    one, same, other = temperature(1.0), temperature(1.0), temperature(2.0)
    assert hash_network(one) == hash_network(same.train(False)) != hash_network(other)
    with torch.no_grad():
        same.bias += 1
    assert hash_network(one) != hash_network(same)


def test_a_registered_name_on_own_pictures(model: nn.Module, expected: bench.Result) -> None:
    result = bench.evaluate("digits_cnn", X, Y, defense="gaussian_noise", **FAST)
    assert result.cell.classifier == "given:digits_cnn" and len(result.images) == 4
    same = bench.evaluate(model, X, Y, defense=GaussianNoise(), **FAST)
    pd.testing.assert_frame_equal(result.images, same.images)


def test_networks_of_the_defense_answer_for_own_pictures() -> None:
    defense = AdversarialTraining(model="digits_cnn_at")
    named = bench.evaluate("digits_cnn", "digits", defense=defense, num_images=4, **FAST)
    held = TensorDataset(HELD.images(range(len(HELD))), torch.as_tensor(HELD.labels))
    given = bench.evaluate("digits_cnn", held, defense=defense, num_images=4, **FAST)
    pd.testing.assert_frame_equal(named.images, given.images)
    assert given.row["defense_params"] == {"model": "given:digits_cnn_at"}


def test_the_tiers_choose_the_attack() -> None:
    from bench.api.evaluation import _make_attack

    threat = ThreatModel(epsilon=EPSILON)
    assert _make_attack(None, "quick", threat, Undefended()).params()["eot"] == 1
    assert _make_attack(None, "quick", threat, NOISE).params()["eot"] == 4
    assert _make_attack(None, "gold", threat, NOISE).name == "gold"
    assert _make_attack(None, "strong", threat, NOISE).name == "strong"
    with pytest.raises(ValueError, match="attack="):
        _make_attack(None, "paper", threat, NOISE)


def test_paper_tier_checks_the_gates(model: nn.Module) -> None:
    result = bench.evaluate(model, X, Y, defense=NOISE, tier="paper", **FAST)
    assert {gate["gate"] for gate in result.gates} >= {"repeatable", "inside_ball"}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


FLAT = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
MISTAKES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "0 to 255": ((FLAT, X * 255, Y), {}, r"in \[0, 1\].*Scale them"),
    "channels last": ((FLAT, X.permute(0, 2, 3, 1), Y), {}, "Channels come first"),
    "no labels": ((FLAT, X), {}, "Expected labels y"),
    "one-hot labels": ((FLAT, X, nn.functional.one_hot(Y, 10)), {}, r"argmax\(1\)"),
    "labels too many": ((FLAT, X, Y[:3]), {}, "3 labels"),
    "labels of no class": ((FLAT, X, Y + 10), {}, r"labels in 0\.\.9"),
    "labels beside a data set": ((FLAT, TensorDataset(X, Y), Y), {}, "Leave it out"),
    "one picture": ((FLAT, X[0], Y[:1]), {}, "channels, height, width"),
    "too many images": ((FLAT, X, Y), {"num_images": 5}, r"1\.\.4"),
    "a network of other pictures": ((nn.Sequential(nn.Flatten(), nn.Linear(3, 10)), X, Y), {}, "it answered"),
    "no logits": ((Pair(), X, Y), {}, "got tuple"),
    "a function for a model": ((lambda x: x, X, Y), {}, "nn.Module"),
    "a defended model": ((NOISE.defend(FLAT), X, Y), {}, "defense apart"),
    "a class for a defense": ((FLAT, X, Y), {"defense": GaussianNoise}, "Expected a defense"),
    "no score": ((FLAT, X, Y), {"defense": DiffPureSDE()}, "score="),
    "a bare network for a score": ((FLAT, X, Y), {"defense": DiffPureSDE(), "score": FLAT}, "NetworkScore"),
    "a class for an attack": ((FLAT, X, Y), {"attack": PGDEOT}, "Expected an attack"),
    "a norm": ((FLAT, X, Y), {"norm": "linf"}, "Linf, L2, L1"),
    "words": ((FLAT, ["a"], Y), {}, "as numbers, got list"),
    "no images": ((FLAT, X, Y), {"num_images": 0}, "Expected num_images >= 1"),
    "no images of a data set": (("digits_cnn", "digits"), {"num_images": 0}, "Expected num_images >= 1"),
    "half an image": ((FLAT, X, Y), {"num_images": 2.5}, "Expected num_images .*, got 2.5"),
    "no radius in L1": ((FLAT, X, Y), {"norm": "L1", "epsilon": None}, "Expected epsilon for norm L1.*epsilon=12"),
    "no radius in L2": ((FLAT, X, Y), {"norm": "L2", "epsilon": None}, "Expected epsilon for norm L2.*epsilon=0.5"),
    "an attack without L1": (
        (FLAT, X, Y),
        {"norm": "L1", "tier": "strong", "attack": None},
        "strong attacks in Linf, L2, got norm L1. Use one of apgd_eot",
    ),
    "known noise of none": ((FLAT, X, Y), {"noise": "known"}, "Expected noise='fresh' for undefended"),
    "known noise misspelt": ((FLAT, X, Y), {"noise": "Known"}, "Expected noise among fresh, known"),
    "a tier": ((FLAT, X, Y), {"tier": "fast"}, "Expected tier among"),
    "epsilon as a text": ((FLAT, X, Y), {"epsilon": "8/255"}, "without quotes"),
    "a seed as a text": ((FLAT, X, Y), {"seed": "a"}, "Expected seed of Cell to be a whole number"),
    "a data seed as a text": ((FLAT, X, Y), {"data_seed": "a"}, "Expected data_seed of Cell to be a whole number"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_sentence_before_anything_runs(mistake: str) -> None:
    given, changed, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence):
        bench.evaluate(*given, **{**FAST, **changed})


def test_l1_is_attacked_by_apgd_where_no_attack_is_named(model: nn.Module) -> None:
    found = bench.evaluate(model, X, Y, norm="L1", epsilon=4.0, device="cpu")
    assert found.cell.attack.name == "apgd_eot" and found.cell.threat.norm == "L1"
    assert found.robust_accuracy < 100 and found.images.distance.max() <= 4.0 * (1 + 1e-5)


def test_noise_that_the_attacker_knows_makes_another_cell(model: nn.Module, tmp_path: Path) -> None:
    fresh, known = (
        bench.evaluate(model, X, Y, defense=NOISE, noise=noise, db=tmp_path / "r.sqlite", **FAST)
        for noise in ("fresh", "known")
    )
    assert known.cell.threat.noise == "known" and known.cell.key != fresh.cell.key
    assert (known.row["noise"], known.row["draws"]) == ("known", 1) and fresh.row["noise"] == "fresh"


class Breaks(nn.Module):
    """Takes what is tried, and no batch."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("broken in the middle")
        return x.flatten(1)[:, :10]


def test_an_error_in_the_middle_is_raised_with_its_traceback() -> None:
    with pytest.raises(bench.EvaluationFailed, match="broken in the middle") as caught:
        bench.evaluate(Breaks(), X, Y, **FAST)
    assert any("Traceback" in note for note in caught.value.__notes__)


def test_the_report_shows_rows_of_networks_that_are_gone(model: nn.Module, tmp_path: Path) -> None:
    from bench.commands.report import report

    db = tmp_path / "results.sqlite"
    bench.evaluate(model, X, Y, defense=NOISE, db=db, **FAST)
    assert "given:" in report(str(db), None, "text")[0]
