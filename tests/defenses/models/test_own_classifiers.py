"""Classifiers and score networks of the user's: functions, decorators, timm, folders of Hugging Face's layout."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from defenses.models.classifiers import CLASSIFIERS, check_dataset, classifier_info, load_classifier
from defenses.models.scores import SCORES, load_score, score_info
from defenses.models.sources import source_of
from defenses.models.weights import MissingWeights
from defenses.user_file import load_file

NETWORKS = """
import torch
from torch import nn
from defenses.models.classifiers import register_classifier
from defenses.models.scores import register_score
from defenses.models.score_models import NetworkScore

class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))

@register_classifier("decorated_mine", datasets=("digits",), title="mine")
def decorated():
    return Net()

@register_score("score_mine")
def score():
    return NetworkScore(Zero(), (1, 8, 8))

class Zero(nn.Module):
    def forward(self, x, label):
        return torch.zeros_like(x)

def nothing():
    Net()

def of_two(a, b):
    return Net()

def gives_class():
    return Net
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "networks_mine.py"
    path.write_text(NETWORKS)
    yield path
    for registry, name in ((CLASSIFIERS, "decorated_mine"), (SCORES, "score_mine")):
        if name in registry:
            del registry[name]  # type: ignore[attr-defined]


def test_a_function_in_a_file_is_a_classifier_of_any_data_set(file: Path) -> None:
    name = f"{file}:Net"
    network = load_classifier(name, "cifar10")  # whether it fits is asked of a picture
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10) and not network.training
    before = torch.get_rng_state()
    again = load_classifier(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    digest = classifier_info(name).weights_sha256()
    file.write_text(NETWORKS + "\n# edited\n")
    assert classifier_info(name).weights_sha256() != digest
    assert classifier_info(name).title == "Net" and classifier_info(name).source == str(file)


def test_decorated_functions_have_names(file: Path) -> None:
    module = load_file(file)
    assert isinstance(load_classifier("decorated_mine", "digits"), module.Net)
    with pytest.raises(ValueError, match="Expected a classifier of cifar10, got 'decorated_mine', which"):
        check_dataset("decorated_mine", "cifar10")
    assert load_score("score_mine").epsilon(torch.ones(1, 1, 8, 8), torch.ones(1)).sum() == 0
    assert len(score_info("score_mine").weights_sha256()) == 64 and score_info(f"{file}:score").title == "score"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nothing", "to return a torch nn.Module .*, got nothing: write `return`"),
        ("gives_class", r"got the class Net: write Net\(\)"),
        ("of_two", "as a function without arguments"),
        ("Nett", r"Unknown function of networks_mine.py 'Nett'. Did you mean 'Net'\?"),
    ],
)
def test_what_is_no_network_is_a_sentence(function: str, said: str, file: Path) -> None:
    with pytest.raises((ValueError, LookupError), match=said):
        load_classifier(f"{file}:{function}")


def test_a_score_function_must_return_one(file: Path) -> None:
    with pytest.raises(ValueError, match="to return a score network .*, got a Net. Wrap"):
        load_score(f"{file}:decorated")


def test_models_of_timm_by_name() -> None:
    info = classifier_info("timm:resnet18.a1_in1k")
    assert info.datasets == ("imagenet", "imagenet_sample") and info.title == "resnet18"
    source = source_of("timm:resnet18.a1_in1k")
    assert source is not None and source.at == "hub:timm/resnet18.a1_in1k/model.safetensors"
    for name, said in (("timm:resnet18.a9", "Did you mean resnet18.a1_in1k"), ("timm:resent18", "Did you mean resn")):
        with pytest.raises(LookupError, match=said):
            classifier_info(name)


def test_a_folder_of_timms_layout_is_normalised_as_it_says(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("resnet18", num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 7, "pretrained_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_classifier(f"hf:{tmp_path}")(x), network((x - 0.4) / 0.2))
    del config["pretrained_cfg"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Expected mean and std in .*config.json, found none"):
        load_classifier(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match="Expected model.safetensors or pytorch_model.bin"):
        classifier_info(f"hf:{tmp_path}").weights_sha256()
    with pytest.raises(MissingWeights, match="Expected a folder with config.json at /.*none_mine, found none"):
        load_classifier("hf:none_mine")


def test_a_folder_of_transformers_layout(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "architectures": ["X"]}))
    with pytest.raises(ValueError, match="preprocessor_config.json, which states the normalisation, found none"):
        load_classifier(f"hf:{tmp_path}")
    if importlib.util.find_spec("transformers") is None:
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        )
        with pytest.raises(ValueError, match="`transformers` .* not installed. pip install transformers"):
            load_classifier(f"hf:{tmp_path}")
        return
    from transformers import ResNetConfig, ResNetForImageClassification

    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    network = ResNetForImageClassification(small).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_classifier(f"hf:{tmp_path}")(x), network((x - 0.5) / 0.25).logits)
