"""The energy of the digits: what ships, what it computes, how it is trained, and Langevin purification with it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.datasets import ImageSet, load_dataset
from bench.training import digits_energy as recipe
from bench.training.energy import fit_energy, matching_loss
from bench.training.recipes import train
from defenses import defenses
from defenses.langevin import Langevin
from defenses.models.classifiers import load_classifier
from defenses.models.energy import EnergyScore
from defenses.models.networks.energy import EnergyMLP
from defenses.models.score_models import DataScore
from defenses.models.scores import load_score, score_info
from defenses.models.weights import asset_record, load_checkpoint
from defenses.noise import Noise


def toy(temperature: float = 5e-5) -> EnergyScore:
    torch.manual_seed(0)
    network = EnergyMLP((1, 2, 3), width=8, blocks=2, sigma=0.4).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return EnergyScore(network.requires_grad_(False), (1, 2, 3), temperature=temperature)


def pictures(shape: tuple[int, ...] = (2, 1, 2, 3)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slope(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, h: float = 1e-5) -> Tensor:
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


def test_what_ships_is_what_was_recorded() -> None:
    file = asset_record("digits_energy")["files"][recipe.FILE]
    assert score_info("digits_energy").weights_sha256() == file["sha256"]
    model = load_score("digits_energy")
    assert isinstance(model, EnergyScore) and isinstance(model, DataScore)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == file["parameters"] < 200_000
    x = load_dataset("digits").images(range(500))
    found = matching_loss(model.energy, 2 * x - 1, _noise(x), file["network"]["sigma"])  # type: ignore[arg-type]
    assert found.item() == pytest.approx(file["loss_test"], rel=1e-3)


def _noise(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_the_score_is_minus_the_gradient_of_the_energy() -> None:
    model, x, direction = toy(), pictures(), pictures().flip(-1)
    numeric = slope(lambda v: 5e-5 * model.energy(2 * v - 1).sum(), x, direction)
    exact = (model.score(x) * direction).sum()
    assert abs(exact + numeric) < 1e-8 * abs(numeric)


def test_the_score_can_be_differentiated_where_gradients_are_recorded() -> None:
    model, x = toy(temperature=1.0), pictures().requires_grad_()
    assert torch.autograd.gradcheck(model.score, (x,))
    with torch.no_grad():
        unrecorded = model.score(x)
    assert not unrecorded.requires_grad and not model.score(x.detach()).requires_grad
    torch.testing.assert_close(unrecorded, model.score(x).detach(), rtol=1e-12, atol=0.0)


def test_training_lowers_the_loss() -> None:
    """One image plus noise: the energy |x - image|^2 / (2 sigma^2) has loss 0."""
    torch.manual_seed(0)
    images, sigma = torch.full((64, 1, 4, 4), 0.5), 0.5
    network = EnergyMLP((1, 4, 4), width=16, blocks=1, sigma=sigma)
    losses: list[float] = []
    fit_energy(
        network, images, sigma=sigma, steps=60, seed=0, what="toy", progress=lambda *call: losses.append(call[-1])
    )
    assert sum(losses[-10:]) < sum(losses[:10]) / 2


def test_the_recipe_writes_an_energy_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(name: str, split: str = "test") -> ImageSet:
        data = load_dataset(name, split=split)  # type: ignore[arg-type]
        return replace(data, labels=data.labels[:6])

    monkeypatch.setattr(recipe, "load_dataset", few)
    record = train("digits_energy", output=tmp_path, effort=0.001)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    file = record["files"][recipe.FILE]
    EnergyMLP(**file["network"]).load_state_dict(load_checkpoint(tmp_path / recipe.FILE, file["sha256"]))
    assert file["steps"] == 3 and file["loss_train"] > 0
    again = train("digits_energy", output=tmp_path, effort=0.001)
    assert again["files"][recipe.FILE]["sha256"] == file["sha256"]


@pytest.mark.parametrize("every", [None, 0, 2])
def test_langevin_has_an_exact_gradient(every: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Langevin, "checkpoint_every", every)
    model = load_score("digits_energy").double()  # type: ignore[union-attr]
    purify = Langevin(steps=3, noise_scale=0.02).build(score=model)
    images, noise = load_dataset("digits").images(range(2)).double(), Noise(0, torch.arange(2))
    x, readout = images.clone().requires_grad_(), pictures((2, 1, 8, 8))
    (purify(x, noise) * readout).sum().backward()
    assert x.grad is not None
    direction = readout.flip(-1)
    numeric = slope(lambda v: (purify(v, noise) * readout).sum(), images, direction)
    assert abs(numeric - (x.grad * direction).sum()) < 1e-7 * abs(numeric)
    assert not torch.allclose(x.grad, readout, rtol=1e-2)


def test_a_noise_level_must_be_positive() -> None:
    with pytest.raises(ValueError, match="sigma > 0"):
        EnergyMLP(sigma=0.0)


@pytest.mark.parametrize("name", [name for name, cls in defenses.items() if cls.needs_score])
def test_who_cannot_use_the_score_of_the_images_alone_says_so(name: str) -> None:
    try:
        defense = defenses.make(name, {})
    except TypeError:
        pytest.skip(f"{name} has no default settings")
    classifier, score = load_classifier("digits_cnn"), load_score("digits_energy")
    if defense.takes_data_score:
        assert defense.defend(classifier, score, gradient="none") is not None
    else:
        with pytest.raises(ValueError, match=r"diffusion times, got EnergyScore.*bench list scores|on 10 classes"):
            defense.defend(classifier, score, gradient="none")
