"""Architectures: published sizes and accuracies, exact scores of simple data, second derivatives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from defenses.diffusion.schedule import VPSchedule
from defenses.models.networks.cifar_resnet import CifarResNet
from defenses.models.networks.normalized import Normalized
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.networks.small_cnn import SmallCNN


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnet_has_the_published_size(depth: int, millions: float) -> None:
    """Table 6 of He et al. (2016)."""
    count = sum(p.numel() for p in CifarResNet(depth).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.035)


def test_cifar_resnet_shortcut_skips_pixels_and_pads_channels() -> None:
    block = CifarResNet(8).layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the residual branch is now zero
    x = torch.rand(1, 16, 4, 4)
    out = block(x)
    assert out.shape == (1, 32, 2, 2)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and out[:, :8].eq(0).all() and out[:, 24:].eq(0).all()


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_cifar_resnet_refuses_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6n \\+ 2 layers.*got {depth}"):
        CifarResNet(depth)


def test_normalized_has_no_weights_of_its_own() -> None:
    network = Normalized(torch.nn.Identity(), (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert network(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist() == [0, 1, 0.25]
    assert network.state_dict() == {}


def scaled_mlp(mean: float = 0.3, std: float = 0.5) -> ScoreMLP:
    network = ScoreMLP(width=16, blocks=1).double()
    with torch.no_grad():
        network.mean.fill_(mean)
        network.std.fill_(std)
    return network


@pytest.mark.parametrize("t", [0.05, 0.3, 0.8])
def test_score_mlp_with_silent_layers_is_exact_on_a_gaussian(t: float) -> None:
    """With the layers' output zero, the exact epsilon of N(mean, std^2) data remains: -sigma times the score."""
    network, schedule = scaled_mlp(), VPSchedule()
    torch.nn.init.zeros_(network.output.weight)
    torch.nn.init.zeros_(network.output.bias)
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    scale, sigma = math.sqrt(schedule.alpha_bar(t)), schedule.sigma(t)
    expected = sigma * (x - scale * 0.3) / (scale**2 * 0.25 + sigma**2)
    actual = network(x, torch.full((5,), 999 * t, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_score_mlp_is_finite_at_both_ends_and_for_each_row_its_own_time() -> None:
    network, x = scaled_mlp(), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0.0, 1.5, 100.0, 999.0], dtype=torch.float64)
    together = network(x, labels)
    assert torch.isfinite(together).all()
    for row in range(4):
        torch.testing.assert_close(together[row : row + 1], network(x[row : row + 1], labels[row : row + 1]))


def test_score_mlp_and_small_cnn_have_right_first_and_second_derivatives() -> None:
    mlp, cnn = scaled_mlp(), SmallCNN(width=2).double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([150.0], dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda v: mlp(v, label), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(cnn, x, fast_mode=True)


def test_score_mlp_fits_the_scale_of_its_data() -> None:
    network, x = ScoreMLP(), torch.rand(100, 1, 8, 8) * 2 - 1
    network.fit_scale(x)
    torch.testing.assert_close(network.mean, x.mean(0))
    assert ((x - network.mean) / network.std).std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet56"])
def test_real_cifar_resnet_reaches_its_published_accuracy(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 real test pictures; the published accuracy lies within three standard errors."""
    from bench.datasets import load_dataset
    from defenses.models.classifiers import classifier_info, load_classifier

    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    data = load_dataset("cifar10")
    network = load_classifier(name, "cifar10")
    right = (network(data.images(range(300))).argmax(1) == data.labels[:300]).double().mean().item()
    published = (classifier_info(name).clean_accuracy or 0) / 100
    assert abs(right - published) < 3 * math.sqrt(published * (1 - published) / 300)
