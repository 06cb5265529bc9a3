"""Images of another size than the score network's: resized there and back, once, for every purifier that needs one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contract import Network, tiny_noise
from torch import Tensor, nn

from defenses.base import Defended
from defenses.chain import Chain
from defenses.diffpure_sde import DiffPureSDE
from defenses.median_blur import MedianBlur
from defenses.models.networks.small_cnn import SmallCNN
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise
from defenses.resize import at_size

DEFENSE = DiffPureSDE(t=0.02, steps=2)


class Watched(Network):
    """Keeps the sizes that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.sizes.add(x.shape[-1])
        return super().forward(x, label)


def score() -> NetworkScore:
    return NetworkScore(Watched(), (1, 10, 10))


def images(side: int = 8) -> Tensor:
    return torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def defended(defense: object = DEFENSE, gradient: str = "exact") -> tuple[Defended, Watched]:
    network = score()
    classifier: nn.Module = SmallCNN(width=2).double()
    return defense.defend(classifier, network, gradient=gradient), network.network  # type: ignore[attr-defined,return-value]


def test_a_constant_image_stays_and_a_ramp_follows_the_formula() -> None:
    """Corners not aligned: output pixel i of n reads at (i + 1/2) m / n - 1/2 of m, clamped."""
    seen: list[Tensor] = []

    def keep(x: Tensor, noise: Noise) -> Tensor:
        seen.append(x)
        return x

    flat = torch.full((3, 1, 4, 4), 0.25)
    assert at_size(keep, (6, 6))(flat, tiny_noise()).eq(0.25).all()
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    at_size(keep, (6, 6))(ramp, tiny_noise())
    expected = [max(0.0, min(3.0, (i + 0.5) * 4 / 6 - 0.5)) for i in range(6)]
    torch.testing.assert_close(seen[1][0, 0, 0], torch.tensor(expected))


def test_the_network_sees_its_size_and_the_classifier_the_images() -> None:
    model, network = defended()
    out = model.purify(images(), tiny_noise())
    assert network.sizes == {10} and out.shape == images().shape
    by_hand = DEFENSE.build(score=score())(
        F.interpolate(images(), size=(10, 10), mode="bilinear", align_corners=False), tiny_noise()
    )
    expected = F.interpolate(by_hand, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, expected)


def test_images_of_the_networks_size_are_left_as_they_are() -> None:
    model, _ = defended()
    x = images(10)
    assert torch.equal(model.purify(x, tiny_noise()), DEFENSE.build(score=score())(x, tiny_noise()))


@pytest.mark.parametrize("gradient", ["exact", "surrogate", "straight_through"])
def test_every_kind_of_gradient_reaches_the_images(gradient: str) -> None:
    model, network = defended(gradient=gradient)
    x = images().requires_grad_()
    (found,) = torch.autograd.grad(model(x, tiny_noise()).sum(), x)
    assert found.shape == x.shape and found.abs().sum() > 0 and network.sizes == {10}


def test_the_exact_gradient_passes_through_both_resizings() -> None:
    model, _ = defended()
    x = images().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.purify(x, tiny_noise()), x, fast_mode=True)


def test_only_the_members_of_a_chain_that_need_the_network_are_resized() -> None:
    chain = Chain(members=(("median_blur", {}), ("diffpure_sde", {"t": 0.02, "steps": 2})))
    model, network = defended(chain)
    blurred = MedianBlur().build()(images(), tiny_noise())
    noise = tiny_noise()
    expected = DEFENSE.fitted(score=score())(blurred, noise.derive("chain member 1"))
    torch.testing.assert_close(model.purify(images(), noise), expected)
    assert network.sizes == {10}


@pytest.mark.slow
def test_an_imagenet_picture_through_the_full_size_network(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One real picture at 224, guided-diffusion's network at 256 (untrained weights of the recipe): two steps."""
    from network_fixtures import made_state

    from bench.datasets import load_dataset
    from defenses.models.score_zoo import guided_score

    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    picture = load_dataset("imagenet_sample").images([3])
    network = guided_score(made_state(shared, "guided256_uncond", 102), 256)
    model = DEFENSE.defend(nn.Flatten(), network)
    with torch.no_grad():
        out = model.purify(picture, Noise(0, torch.tensor([3])))
    assert out.shape == (1, 3, 224, 224) and out.isfinite().all()
    assert 0.001 < (out - picture).abs().mean() < 0.5
