"""Training: losses fall, attacks stay in their ball, the same seed repeats, the shipped networks reach their record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.datasets import ImageSet, Split, load_dataset
from bench.training import digits as recipe
from bench.training.augment import jitter
from bench.training.classifier import PGD, fit_classifier, robust_accuracy
from bench.training.loop import batches, fit
from bench.training.recipes import RECIPES, train
from bench.training.score import diffuse, fit_score, losses_by_time, purify
from defenses.diffusion.schedule import VPSchedule
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.networks.small_cnn import SmallCNN
from defenses.models.weights import asset_path, asset_record, load_checkpoint


class Linear(nn.Module):
    """logits (0, w . x + b) over 2x2 images: its robust radius is known in closed form."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, images: Tensor) -> Tensor:
        margin = images.flatten(1) @ self.weight + self.bias
        return torch.stack((torch.zeros_like(margin), margin), 1)


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_pgd_breaks_exactly_what_the_closed_form_says(norm: str, dual: int) -> None:
    """A linear classifier falls within epsilon iff |w.x + b| < epsilon ||w||_dual (pixels kept away from 0 and 1)."""
    weight, images = torch.tensor([1.0, -2.0, 0.5, 3.0]), 0.4 + 0.2 * torch.rand(400, 1, 2, 2)
    network = Linear(weight, bias=-1.2)
    margin = images.flatten(1) @ weight - 1.2
    radius = margin.abs() / weight.norm(p=dual)
    epsilon = 0.03
    clear = (radius - epsilon).abs() > 0.1 * epsilon  # twenty steps come close to the radius, not up to it
    images, labels, radius = images[clear], (margin > 0).long()[clear], radius[clear]
    expected = (radius > epsilon).double().mean().item()
    assert 0.2 < expected < 0.8
    assert robust_accuracy(network, images, labels, PGD(norm=norm, epsilon=epsilon, steps=20)) == expected


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_stays_in_the_ball_and_the_range(norm: str) -> None:
    images, labels = torch.rand(32, 1, 8, 8), torch.randint(0, 10, (32,))
    adversarial = PGD(norm=norm, epsilon=0.3, steps=5)(SmallCNN(width=4), images, labels, torch.Generator())
    distance = (adversarial - images).flatten(1).norm(p=float("inf") if norm == "Linf" else 2, dim=1)
    assert distance.max() <= 0.3 + 1e-6 and distance.min() > 0.05
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def test_jitter_of_no_image_is_the_identity_and_of_all_moves_all() -> None:
    images, generator = torch.rand(50, 1, 8, 8), torch.Generator().manual_seed(0)
    torch.testing.assert_close(jitter(images, generator, share=0), images, atol=1e-6, rtol=0)
    moved = (jitter(images, generator) - images).abs().amax((1, 2, 3))
    assert moved.min() > 0.01


def test_batches_visit_every_row_once_an_epoch() -> None:
    stream = batches(10, 3, torch.Generator().manual_seed(0))
    for _ in range(3):
        epoch = torch.cat([next(stream) for _ in range(3)])
        assert len(set(epoch.tolist())) == 9


def test_fit_refuses_a_loss_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite loss, got nan at step 1 of toy"):
        fit(nn.Linear(1, 1), lambda net: net.weight.sum() * float("nan"), steps=2, learning_rate=1e-3, what="toy")


def test_a_few_steps_lower_both_losses() -> None:
    data = load_dataset("digits", split="train")
    x, y, seen = data.images(range(512)), data.labels[:512], {}

    def progress(what: str, done: int, total: int, loss: float) -> None:
        seen.setdefault(what, []).append((done, total, loss))

    torch.manual_seed(0)
    fit_classifier(SmallCNN(width=8), x, y, steps=60, seed=0, what="classifier", progress=progress)
    fit_score(ScoreMLP(width=64, blocks=2), x, steps=60, seed=0, what="score", progress=progress)
    for steps in seen.values():
        assert [step[:2] for step in steps] == [(k, 60) for k in range(1, 61)]
        first, last = (sum(step[2] for step in part) / 10 for part in (steps[:10], steps[-10:]))
        assert last < 0.9 * first


def test_diffuse_and_purify_on_data_with_a_known_score() -> None:
    """Data N(0, std^2) in [-1, 1] space with its exact epsilon: purification keeps mean and variance."""
    schedule, std = VPSchedule(), 0.3

    def exact(x_t: Tensor, label: Tensor) -> Tensor:
        t = (label / 999).view(-1, 1, 1, 1)
        return schedule.sigma(t) * x_t / (schedule.alpha_bar(t) * std**2 + schedule.sigma(t) ** 2)

    images = (torch.randn(4000, 1, 2, 2) * std + 1) / 2
    noisy = diffuse(2 * images - 1, torch.full((4000,), 0.2), torch.randn(4000, 1, 2, 2))
    variance = schedule.alpha_bar(0.2) * std**2 + schedule.sigma(0.2) ** 2
    assert noisy.var().item() == pytest.approx(variance, rel=0.05)
    out = 2 * purify(exact, images, t=0.2, steps=100, seed=1) - 1  # type: ignore[arg-type]
    assert out.mean().item() == pytest.approx(0, abs=0.01) and out.std().item() == pytest.approx(std, rel=0.04)


def test_train_refuses_unknown_names_and_efforts(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="Did you mean 'digits'"):
        train("digit", output=tmp_path)
    with pytest.raises(ValueError, match="effort > 0, got 0"):
        train("digits", output=tmp_path, effort=0)


def few(name: str, split: Split = "test") -> ImageSet:
    data = load_dataset(name, split=split)
    return replace(data, labels=data.labels[:64])


def test_the_recipe_writes_a_record_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "SCAN", {"Linf": (0.1,)})
    monkeypatch.setattr(recipe, "PURIFY_TIMES", (0.1,))
    monkeypatch.setattr(recipe, "load_dataset", few)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint.pt").touch()  # a file of the user's: this recipe has no checkpoint
    records = [train("digits", output=tmp_path / run, seed=3, effort=0.002) for run in "ab"]
    assert (tmp_path / "a" / "checkpoint.pt").exists()
    assert json.loads((tmp_path / "a" / "record.json").read_text()) == records[0]
    for name, file in records[0]["files"].items():
        assert file["sha256"] == records[1]["files"][name]["sha256"]
        assert (tmp_path / "b" / name).stat().st_size == file["bytes"]


def test_shipped_files_match_the_record_and_stay_small() -> None:
    record, total = asset_record("digits"), 0
    for name, file in record["files"].items():
        path = asset_path(f"digits/{name}")
        load_checkpoint(path, file["sha256"])
        total += path.stat().st_size
    assert total < 5e6 and record["recipe"] == "digits" and record["effort"] == 1


def shipped(name: str) -> nn.Module:
    file = asset_record("digits")["files"][f"{name}.safetensors"]
    network = (ScoreMLP if "score" in name else SmallCNN)(**file["network"])
    network.load_state_dict(load_checkpoint(asset_path(f"digits/{name}.safetensors")))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_at"])
def test_shipped_classifiers_reach_their_recorded_robustness(name: str) -> None:
    data = load_dataset("digits")
    epsilon = asset_record("digits")["threat"]["Linf"]
    recorded = asset_record("digits")["files"][f"{name}.safetensors"]["pgd20_accuracy"]["Linf"][f"{epsilon:g}"]
    attack = PGD(norm="Linf", epsilon=epsilon, steps=20)
    measured = 100 * robust_accuracy(shipped(name), data.images(range(500)), data.labels, attack)
    assert measured == pytest.approx(recorded, abs=1)
    assert measured < 10 if name == "digits_cnn" else measured > 40


def test_shipped_score_network_reaches_its_recorded_losses_and_purifies() -> None:
    data, file = load_dataset("digits"), asset_record("digits")["files"]["digits_score.safetensors"]
    images, score, classifier = data.images(range(500)), shipped("digits_score"), shipped("digits_cnn")
    for t, loss in losses_by_time(score, images, recipe.TIMES).items():
        assert loss == pytest.approx(file["loss_test"][t], rel=0.02)
    row = next(row for row in file["diffpure_accuracy"] if row["t"] == 0.1)
    kept = (classifier(purify(score, images, t=0.1, steps=20)).argmax(1) == data.labels).double().mean().item()
    assert 100 * kept == pytest.approx(row["clean"], abs=1)
    assert row["clean"] >= 95 and row["transfer_Linf"] > 50


def test_the_registry_of_recipes_says_what_each_takes(tmp_path: Path) -> None:
    digits = ["digits", "digits_conditional", "digits_energy", "digits_perturbation"]
    others = ["score", "classifier", "velocity", "adbm"]
    assert list(RECIPES) == [*digits, *others]
    assert [name for name in RECIPES if RECIPES[name].for_dataset] == others
    with pytest.raises(
        ValueError, match="Expected --dataset for score, classifier, velocity, adbm and for no other recipe, got None"
    ):
        train("score", output=tmp_path / "out")
    with pytest.raises(ValueError, match="Expected options of digits among .*, got scale"):
        train("digits", output=tmp_path / "out", scale="full")
    assert not (tmp_path / "out").exists()
