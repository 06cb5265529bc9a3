"""The real architectures at full size, with the recipe's weights: golden outputs (slow: up to 3.1 GiB each)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from network_fixtures import empty_state, made_state, recipe, record, relative, tensors

from defenses.models.checkpoints import load_into
from defenses.models.classifier_zoo import architecture, with_weights
from defenses.models.networks.unet import DDPMPP_DEEP, GUIDED_256
from defenses.models.score_models import load_score
from defenses.models.score_zoo import ddpmpp_score, guided_score

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


def test_listings_name_the_classifiers_entries(shared: Path) -> None:
    """Every entry of the real files has its place, in the same shape, and nothing else is wanted."""
    for ours, listed, _ in CLASSIFIERS.values():
        with torch.device("meta"):
            network = architecture(ours).network
        wanted = {key: value.shape for key, value in network.state_dict().items()}
        assert wanted == {key: value.shape for key, value in empty_state(shared, listed).items()}
