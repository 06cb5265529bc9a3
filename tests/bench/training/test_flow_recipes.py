"""`bench train velocity` and `bench train adbm`: their objectives, what they write, and that the defenses load it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.datasets import ImageSet, load_dataset
from bench.training import adbm_recipe, velocity_recipe
from bench.training.adbm_recipe import train_adbm
from bench.training.long import Plan
from bench.training.recipes import train
from bench.training.velocity import add_noise, attack_bare, flow_state, velocity_loss
from bench.training.velocity_recipe import VelocityScale, train_velocity
from defenses.adbm import ADBM
from defenses.flowpure import FlowPure
from defenses.models.classifiers import load_classifier
from defenses.models.flow_maps import VelocityMap
from defenses.models.scores import load_score
from defenses.noise import Noise

TINY = VelocityScale(
    network={"channels": (16, 32), "blocks": 1, "attention": (False, True)},
    plan=Plan(steps=30, batch_size=16, learning_rate=None, other_rate=2e-3, warm_up=2),
)


def pictures(count: int = 32) -> ImageSet:
    """Colour pictures of 8x8, of one shade each."""
    shades = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 8, 8)
    return ImageSet(
        name="shades", labels=torch.arange(count) % 2, class_names=("a", "b"), image_shape=(3, 8, 8),
        read=lambda rows: shades[rows].contiguous(),
    )  # fmt: skip


def silent(what: str, done: int, total: int, loss: float) -> None:
    pass


def test_a_flow_leads_from_corrupted_to_clean() -> None:
    clean, corrupted = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    state, target = flow_state(clean, corrupted, torch.zeros(5))
    assert torch.equal(state, corrupted)
    t = torch.linspace(0, 1, 5)
    state, target = flow_state(clean, corrupted, t)
    torch.testing.assert_close(state + (1 - t).view(-1, 1, 1, 1) * target, clean)  # every state leads to the end

    def oracle(x: Tensor, label: Tensor) -> Tensor:
        assert torch.equal(label, t)  # not 999 t
        return clean - corrupted

    assert velocity_loss(oracle, clean, corrupted, t).item() == 0
    assert velocity_loss(lambda x, label: torch.zeros_like(x), clean, corrupted, t).item() == pytest.approx(
        (clean - corrupted).square().mean().item()
    )


def test_corruptions_are_as_large_as_released() -> None:
    data, classifier = load_dataset("digits"), load_classifier("digits_cnn")
    images, labels = data.images(range(64)), data.labels[:64]
    noise = add_noise(images, torch.Generator().manual_seed(0)) - images
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    attacked = attack_bare(classifier, images, labels, torch.Generator().manual_seed(0))
    sizes = (attacked - images).abs().flatten(1).amax(1)
    assert sizes.max().item() <= 0.05 + 1e-6 and sizes.std().item() > 0.005  # radii of their own
    assert attacked.min() >= 0 and attacked.max() <= 1
    losses = [nn.functional.cross_entropy(classifier(x), labels).item() for x in (images, attacked)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("corruption", ["gaussian", "pgd"])
def test_velocity_writes_what_flowpure_loads(corruption: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(velocity_recipe.SCALES, "small", TINY)
    monkeypatch.setattr("defenses.models.classifiers.load_classifier", lambda name: Judge())
    given = {"corruption": corruption, "classifier": "judge"} if corruption == "pgd" else {}
    record = train_velocity(pictures(), tmp_path, seed=0, effort=1.0, progress=silent, **given)
    (file,) = record["files"].values()
    assert file["loss_last"] < file["loss_first"] and record["corruption"] == corruption
    score = load_score(f"file:velocity8:{tmp_path / f'shades_velocity_{corruption}.pt'}")
    assert isinstance(score, VelocityMap)
    images, noise = pictures().images(range(2)), Noise(0, torch.arange(2))
    defense = FlowPure(points=3) if corruption == "gaussian" else FlowPure(sigma=0.0, start=0.0, points=3)
    purified = defense.defend(Judge(), score, gradient="none").purify(images, noise)
    assert purified.shape == images.shape and not torch.equal(purified, images)


class Judge(nn.Module):
    """Two classes by the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]), 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corruption": "pgd"}, "Expected --classifier for --corruption pgd"),
        ({"classifier": "digits_cnn"}, "Expected --classifier for --corruption pgd and for no other"),
        ({"corruption": "noise"}, "corruption 'noise'"),
        ({"scale": "huge"}, "scale 'huge'"),
    ],
)
def test_velocity_refuses_what_it_cannot_do(given: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        train_velocity(pictures(), tmp_path, seed=0, effort=1.0, progress=silent, **given)
    with pytest.raises(ValueError, match="Expected colour pictures.*flowpure takes any score network"):
        train("velocity", dataset="digits", output=tmp_path / "out")


def test_adbm_fine_tunes_a_network_of_train_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.training import score_recipe

    network = {"widths": [16, 64], "blocks": [1, 2, 1], "time_width": 16}
    small = replace(score_recipe.SMALL, network=network, plan=Plan(steps=8, batch_size=32, warm_up=2))
    monkeypatch.setitem(score_recipe.SCALES, "small", small)
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    train("score", dataset="digits", output=tmp_path / "score")
    name = f"file:blocks8:{tmp_path / 'score' / 'digits_score.safetensors'}"
    monkeypatch.setattr(adbm_recipe, "PLAN", replace(adbm_recipe.PLAN, steps=20, batch_size=32, other_rate=2e-3))
    given = {"score": name, "classifier": "digits_cnn", "adversarial": "Linf:3/16"}
    record = train("adbm", dataset="digits", output=tmp_path / "adbm", **given)
    assert json.loads((tmp_path / "adbm" / "record.json").read_text()) == record
    file = record["files"]["digits_adbm.safetensors"]
    assert file["loss_after"] < file["loss_before"] and file["network"]["widths"] == [16, 64]
    tuned = load_score(f"file:blocks8:{tmp_path / 'adbm' / 'digits_adbm.safetensors'}")
    images, noise = load_dataset("digits").images(range(2)), Noise(0, torch.arange(2))
    answers = [ADBM().defend(load_classifier("digits_cnn"), s, gradient="none").purify(images, noise)
               for s in (tuned, load_score(name))]  # fmt: skip
    assert not torch.equal(*answers)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classifier": "digits_cnn"}, "Expected --score"),
        ({"score": "cifar10_small"}, r"pictures of \(1, 8, 8\)"),
        ({"score": "digits_score", "classifier": "digits_cnn"}, "digits_score is another"),
    ],
)
def test_adbm_says_what_it_needs(given: dict[str, str], message: str, tmp_path: Path) -> None:
    data = load_dataset("digits")
    with pytest.raises(ValueError, match=message):
        train_adbm(data, data, tmp_path, seed=0, effort=1.0, progress=silent, **given)
