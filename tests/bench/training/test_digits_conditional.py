"""The recipe of the class-conditional digits network: what it writes can be loaded, and its labels count."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

from bench.datasets import ImageSet, load_dataset
from bench.training import digits_conditional as recipe
from bench.training.recipes import train
from bench.training.score import diffuse, fit_score
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.weights import load_checkpoint


def test_the_recipe_writes_a_network_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(name: str, split: str = "test") -> ImageSet:
        data = load_dataset(name, split=split)  # type: ignore[arg-type]
        return replace(data, labels=data.labels[:6])

    monkeypatch.setattr(recipe, "load_dataset", few)
    record = train("digits_conditional", output=tmp_path, effort=0.0005)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    file = record["files"][recipe.FILE]
    network = ScoreMLP(**file["network"])
    network.load_state_dict(load_checkpoint(tmp_path / recipe.FILE, file["sha256"]))
    assert file["steps"] == 3 and 0 <= file["diffusion_classifier_accuracy"] <= 100


def test_labels_lower_the_loss_where_classes_differ() -> None:
    """Two classes of constant images, dark and bright: told the class, the network need not guess from the noise."""
    labels = torch.arange(256) % 2
    images = (0.25 + 0.5 * labels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    torch.manual_seed(0)
    network = ScoreMLP(image_shape=(1, 2, 2), width=32, blocks=1, classes=2)
    network.fit_scale(2 * images - 1)
    network = fit_score(network, images, steps=300, seed=0, what="toy", t_focus=1.0, labels=labels)
    t, noise = torch.full((256,), 0.6), torch.randn(256, 1, 2, 2)
    x_t = diffuse(2 * images - 1, t, noise)
    told, untold, wrong = (network(x_t, 999 * t, given) for given in (labels, None, 1 - labels))
    assert mse_loss(told, noise) < mse_loss(untold, noise) < mse_loss(wrong, noise)
    assert torch.equal(untold, network(x_t, 999 * t, torch.full((256,), 2)))
