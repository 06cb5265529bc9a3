"""The real architectures at full size, with the recipe's weights: golden outputs (slow: up to 3.1 GiB each)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_fixtures import empty_state, made_state, recipe, record, relative, tensors
from torch import nn

from bench.cell import Cell
from bench.datasets import load_dataset
from bench.grids import grid_cells
from bench.run.prepare import names_of
from defenses.base import Purifier
from defenses.models import robustbench_zoo
from defenses.models.checkpoints import load_into
from defenses.models.classifier_zoo import architecture, with_weights
from defenses.models.networks.unet import DDPMPP_DEEP, GUIDED_256
from defenses.models.score_zoo import ddpmpp_score, guided_score
from defenses.models.scores import load_score
from defenses.noise import Noise

CLASSIFIERS = {  # golden's name: ours, key listing, seed
    "diffpure_cifar10_resnet50": ("diffpure_resnet50", "diffpure_resnet50", 50),
    "gtsrb_resnet18": ("gtsrb_resnet18", "gtsrb_resnet18", 52),
    "cifar100_dm_wrn28_10_swish": ("cifar100_wrn28_10", "cifar100_dm_wrn28_10", 53),
    "diffpure_cifar10_wrn70_16_dropout": ("diffpure_wrn70_16_dropout", "diffpure_wrn70_16_dropout", 54),
}
PARAMETERS = {
    "imagenet_resnet18": 11_689_512, "imagenet_resnet50": 25_557_032, "imagenet_wrn50_2": 68_883_240,
    "imagenet_deit_s": 22_050_664, "imagenet_xcit_s24": 47_671_384,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.slow
def test_ddpmpp_deep(shared: Path) -> None:
    golden = tensors(shared, "diffusion_full_golden")
    score = ddpmpp_score(made_state(shared, "ddpmpp_cifar10", 101), 32, DDPMPP_DEEP)
    with torch.no_grad():
        out = score.network(golden["ddpmpp.x"], golden["ddpmpp.labels"])
    error = float((out - golden["ddpmpp.out"]).abs().max())
    print(f"largest error {error:.2e}")
    assert error < 5e-5


@pytest.mark.slow
def test_guided_256(shared: Path) -> None:
    golden = tensors(shared, "diffusion_full_golden")
    score = guided_score(made_state(shared, "guided256_uncond", 102), 256, GUIDED_256)
    with torch.no_grad():
        out = score.network(golden["guided256.x"], golden["guided256.timesteps"])
    error = float((out - golden["guided256.out"]).abs().max())
    print(f"largest error {error:.2e}")
    assert error < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_ddpm_cifar10_32_from_a_folder(legacy: bool, shared: Path, tmp_path: Path) -> None:
    """As on the hub: config.json and a pickled state dict, its attention named as now or as it used to be."""
    import json

    golden = tensors(shared, "diffusion_full_golden")
    state = made_state(shared, "ddpm_cifar10_32", 103)
    if legacy:
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, old in names.items():
            state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    config = record(shared, "ddpm_cifar10_32_keys")["config"]
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    score = load_score(f"diffusers:{tmp_path}")
    assert score.image_shape == (3, 32, 32)
    with torch.no_grad():
        out = score.epsilon_at(golden["ddpm_cifar10_32.x"], golden["ddpm_cifar10_32.timesteps"].long())
    error = float((out - golden["ddpm_cifar10_32.out"]).abs().max())
    print(f"largest error {error:.2e}")
    assert error < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name: str, shared: Path) -> None:
    ours, listed, seed = CLASSIFIERS[name]
    golden = tensors(shared, "classifiers_full_golden")
    network = with_weights(ours, made_state(shared, listed, seed)).eval()
    with torch.no_grad():
        error = relative(network(golden[f"{name}.x"]), golden[f"{name}.logits"])
    print(f"largest error {error:.2e} of the largest logit")
    assert error < 1e-4


@pytest.mark.slow
def test_robustbench_standard(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the name that grids use: RobustBench's own loader reads the file from our weight folder."""
    from defenses.models.classifiers import load_classifier

    name = "robustbench_cifar10_wrn28_10_standard"
    golden, folder = tensors(shared, "classifiers_full_golden"), tmp_path / "weights/robustbench/cifar10/Linf"
    folder.mkdir(parents=True)
    torch.save({"state_dict": made_state(shared, "robustbench_wrn28_10", 51)}, folder / "Standard.pt")
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    with torch.no_grad():
        out = load_classifier("robustbench:cifar10:Linf:Standard", "cifar10")(golden[f"{name}.x"])
    error = relative(out, golden[f"{name}.logits"])
    print(f"largest error {error:.2e} of the largest logit")
    assert error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_imagenet_classifier(name: str) -> None:
    """Published size, 1000 classes at 224, and its own state dict loads back under a prefix."""
    network = architecture(name).eval()
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    state = {f"module.{key}": recipe(1, key, list(value.shape)) for key, value in network.network.state_dict().items()}
    load_into(network.network, state)
    with torch.no_grad():
        out = network(torch.rand(1, 3, 224, 224))
    assert out.shape == (1, 1000) and out.isfinite().all()


def untrained(name: str) -> nn.Module:
    """A classifier's real architecture, from RobustBench's zoo or ours, with the weights that it is made with."""
    if not name.startswith("robustbench:"):
        return architecture(name).eval().requires_grad_(False)
    _, dataset, threat, model = name.split(":")
    return robustbench_zoo.zoo_entry(model, dataset, threat)["model"]().eval().requires_grad_(False)


def settings() -> dict[str, Cell]:
    """One cell of `paper_tables` for each set of networks, of adversarial training and of the guided defense first."""
    found: dict[str, Cell] = {}
    for cell in grid_cells("paper_tables", "paper"):
        classifiers, scores = names_of(cell)
        networks = classifiers[1:] if cell.defense.name == "adversarial_training" else [*classifiers, *scores]
        found.setdefault(" ".join([cell.defense.name, *networks]), cell)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("networks", settings())
def test_each_setting_of_the_paper_answers_a_real_picture(
    networks: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real architectures at full size on a real picture, purified in two steps where there is a purifier."""
    cell = settings()[networks]
    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    monkeypatch.setattr("defenses.models.classifiers.load_classifier", lambda name, dataset=None: untrained(name))
    data = load_dataset("imagenet_sample" if cell.dataset == "imagenet" else cell.dataset)
    defense, score, picture = cell.defense, None, data.images([3])
    if isinstance(defense, Purifier):
        defense = replace(defense, steps=2)  # type: ignore[call-arg]
        large = cell.score == "guided256"
        state = made_state(shared, "guided256_uncond", 102) if large else made_state(shared, "ddpmpp_cifar10", 101)
        score = guided_score(state, 256, GUIDED_256) if large else ddpmpp_score(state, 32, DDPMPP_DEEP)
    own = cell.defense.name == "adversarial_training"
    model = defense.defend(nn.Identity() if own else untrained(cell.classifier), score, gradient="straight_through")
    with torch.no_grad():
        noise = Noise(0, torch.tensor([3]))
        shown = model.purify(picture, noise) if isinstance(defense, Purifier) else picture
        logits = model.classifier(shown) if isinstance(defense, Purifier) else model(picture, noise)
    assert shown.shape == picture.shape and shown.isfinite().all()
    assert isinstance(defense, Purifier) == bool((shown - picture).abs().mean() > 1e-3)
    assert logits.shape == (1, data.classes) and logits.isfinite().all()


def test_listings_name_the_classifiers_entries(shared: Path) -> None:
    """Every entry of the real files has its place, in the same shape, and nothing else is wanted."""
    for ours, listed, _ in CLASSIFIERS.values():
        with torch.device("meta"):
            network = architecture(ours).network
        wanted = {key: value.shape for key, value in network.state_dict().items()}
        assert wanted == {key: value.shape for key, value in empty_state(shared, listed).items()}
