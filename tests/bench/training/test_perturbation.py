"""AAOpt's perturbation network: what it is shown, what it learns, what ships, and what the defense makes of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.datasets import ImageSet, load_dataset
from bench.training import digits_perturbation as recipe
from bench.training.classifier import PGD
from bench.training.perturbation import find_perturbations, fit_perturbation, perturbation_loss
from bench.training.recipes import train
from defenses.aaopt import AAOpt
from defenses.models.classifiers import load_classifier
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.scores import load_score, score_info
from defenses.models.weights import asset_record, load_checkpoint
from defenses.noise import Noise

SHAPE = (1, 2, 2)


def test_perturbations_are_of_every_image_under_every_attack_and_none() -> None:
    data = load_dataset("digits")
    images, labels = data.images(range(5)), data.labels[:5]
    attacks = [PGD(norm="Linf", epsilon=epsilon, steps=3) for epsilon in (1 / 16, 3 / 16)]
    found = find_perturbations(
        load_classifier("digits_cnn"), images, labels, attacks, torch.Generator().manual_seed(0), copies=2, rows=2
    )
    assert found.shape == (2 * 3 * 5, 1, 8, 8)
    clean, small, large = found[:15].split(5)
    assert not clean.any()
    for part, epsilon in ((small, 1 / 16), (large, 3 / 16)):
        assert part.abs().amax().item() == pytest.approx(2 * epsilon, abs=1e-6)  # [-1, 1] units are twice as small
        assert ((images + part / 2) >= -1e-6).all() and ((images + part / 2) <= 1 + 1e-6).all()
    assert not torch.equal(found[20:25], small)  # the second copy is of jittered images


def test_the_loss_is_the_noise_that_the_network_leaves() -> None:
    """At level 0 nearly all is signal, at level 999 nearly all is noise: the oracle that takes the state for noise."""
    perturbations, noise = torch.zeros(4, *SHAPE), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))

    def silent(x: Tensor, label: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def state(x: Tensor, label: Tensor) -> Tensor:
        assert label.tolist() == [999.0] * 4
        return x

    levels = torch.full((4,), 999)
    assert perturbation_loss(silent, perturbations, levels, noise).item() == pytest.approx(noise.square().mean().item())
    assert perturbation_loss(state, perturbations, levels, noise).item() < 1e-4


def test_a_trained_network_knows_perturbations_from_other_differences() -> None:
    torch.manual_seed(0)
    known = 0.4 * (2 * torch.randint(0, 2, (256, 1, 1, 1)) - 1).expand(-1, *SHAPE).contiguous()
    other = known * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    network = ScoreMLP(SHAPE, width=32, blocks=1)
    network.fit_scale(known)
    network = fit_perturbation(network, known, steps=150, seed=0, what="toy")
    noise = torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(1))
    losses = [perturbation_loss(network, each, torch.full((256,), 250), noise).item() for each in (known, other)]
    assert losses[0] < 0.7 * losses[1], losses


def test_what_ships_is_what_was_recorded() -> None:
    file = asset_record("digits_perturbation")["files"][recipe.FILE]
    assert score_info("digits_perturbation").weights_sha256() == file["sha256"]
    network = load_score("digits_perturbation").network  # type: ignore[union-attr]
    assert isinstance(network, nn.Module) and sum(p.numel() for p in network.parameters()) == file["parameters"]
    data, classifier = load_dataset("digits"), load_classifier("digits_cnn")
    images, labels = data.images(range(100)), data.labels[:100]
    found = find_perturbations(classifier, images, labels, recipe.ATTACKS, torch.Generator().manual_seed(1))
    again = recipe.losses(network, found)
    for level in ("150", "250", "350"):
        assert again[level] == pytest.approx(file["loss_test"][level], rel=0.1)
        assert again[level] < 1  # which predicting zero gets


def test_what_ships_knows_attacks_from_their_pixels_in_another_order() -> None:
    data, classifier = load_dataset("digits"), load_classifier("digits_cnn")
    attack = PGD(norm="Linf", epsilon=3 / 16, steps=5)
    images, labels = data.images(range(200)), data.labels[:200]
    found = find_perturbations(classifier, images, labels, [attack], torch.Generator().manual_seed(2))[200:]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    shuffled = found.flatten(1)[:, order].view_as(found)
    network = load_score("digits_perturbation").network  # type: ignore[union-attr]
    known, other = (recipe.losses(network, each)["150"] for each in (found, shuffled))
    assert known < 0.9 * other, (known, other)


def test_the_defense_uses_it() -> None:
    data, classifier, score = load_dataset("digits"), load_classifier("digits_cnn"), load_score("digits_score")
    images, noise = data.images(range(2)), Noise(0, torch.arange(2))
    without, idle, used = (
        AAOpt(perturbation=name, weight=weight, steps=3)
        .defend(classifier, score, gradient="none")
        .purify(images, noise)
        for name, weight in (("none", 0.25), ("digits_perturbation", 0.0), ("digits_perturbation", 0.25))
    )
    assert torch.allclose(without, idle) and not torch.allclose(without, used)


def test_the_recipe_writes_a_network_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(name: str, split: str = "test") -> ImageSet:
        data = load_dataset(name, split=split)  # type: ignore[arg-type]
        return replace(data, labels=data.labels[:6])

    monkeypatch.setattr(recipe, "load_dataset", few)
    record = train("digits_perturbation", output=tmp_path, effort=0.0005)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    file = record["files"][recipe.FILE]
    network = ScoreMLP(**file["network"])
    network.load_state_dict(load_checkpoint(tmp_path / recipe.FILE, file["sha256"]))
    assert (
        file["steps"] == 2
        and record["classifier"] == "digits_cnn"
        and set(file["loss_test"]) == {str(level) for level in recipe.LEVELS}
    )
