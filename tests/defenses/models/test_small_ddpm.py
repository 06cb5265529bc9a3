"""The public DDPMs of MNIST and Fashion-MNIST: every weight is read, and their noise predictions are as measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.datasets import load_dataset
from defenses.diffusion.schedule import to_model_space
from defenses.models.networks.small_ddpm import SmallDDPM
from defenses.models.score_zoo import small_ddpm_score
from defenses.models.scores import load_score, score_info
from defenses.models.sources import SOURCES
from defenses.models.untrained import knows_score, untrained_score

NAMES = {"ddpm_mnist": "mnist", "ddpm_fashion": "fashion_mnist"}


@pytest.mark.parametrize(
    ("name", "errors"),
    [("ddpm_mnist", {50: 0.095, 200: 0.044, 500: 0.016}), ("ddpm_fashion", {50: 0.203, 200: 0.068, 500: 0.015})],
)
def test_the_noise_is_predicted_as_well_as_others_measured(
    name: str, errors: dict[int, float], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean squared errors on the first 256 test pictures; predicting zero has 1."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    score = load_score(name)
    x = to_model_space(load_dataset(NAMES[name]).images(range(256)))
    for k, error in errors.items():
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
        alpha_bar = score.schedule.alpha_bar_at(k)  # type: ignore[union-attr]
        noisy = alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * noise
        found = score.epsilon_at(noisy, torch.full((256,), k))  # type: ignore[union-attr]
        assert (found - noise).square().mean().item() == pytest.approx(error, abs=0.0015)
        between = torch.full((256,), (k + 0.5) / 1000)
        assert score.epsilon(noisy, between).equal(found)  # type: ignore[union-attr]


def test_their_record() -> None:
    for name, dataset in NAMES.items():
        info, source = score_info(name), SOURCES[name]
        assert (info.datasets, info.licence) == ((dataset,), "MIT") and len(source.sha256) == 64
        assert source.at.startswith("https://github.com/BrianPulfer/PapersReimplementations/raw/31ca7b8")
        assert source.at.endswith(f"/ddpm/{name}.pt") and source.where == source.at


def test_a_state_is_read_strictly() -> None:
    network = SmallDDPM()
    assert sum(p.numel() for p in network.parameters()) == 606_852
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    x = torch.randn(2, 1, 28, 28)
    score = small_ddpm_score(state)
    assert score.epsilon_at(x, torch.tensor([3, 700])).equal(network.eval()(x, torch.tensor([3.0, 700.0])))
    del state["network.te5.0.bias"]
    with pytest.raises(ValueError, match=r"does not fit the network[^?]*te5\.0\.bias"):
        small_ddpm_score(state)


def test_the_last_normalisation_is_not_applied_and_the_others_are() -> None:
    network, x, k = SmallDDPM(), torch.randn(2, 1, 28, 28), torch.tensor([5, 6])
    before = network(x, k)
    torch.nn.init.zeros_(network.b_out[2].ln.weight)  # type: ignore[arg-type]
    assert network(x, k).equal(before)
    torch.nn.init.zeros_(network.b_out[1].ln.weight)  # type: ignore[arg-type]
    assert not network(x, k).equal(before)


def test_their_cost_is_known_without_the_files() -> None:
    for name in NAMES:
        assert knows_score(name) and untrained_score(name).image_shape == (1, 28, 28)  # type: ignore[union-attr]
