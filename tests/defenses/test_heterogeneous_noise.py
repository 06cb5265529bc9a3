"""Heterogeneous noise: golden attention, masks, outputs and gradients; where the noise goes.

The fixture holds the first two of the reference's three images and the normals that are used.
"""

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load, toy_score
from torch import Tensor, nn

from defenses.diffusion.schedule import to_model_space
from defenses.heterogeneous_noise import HeterogeneousNoise, attention
from defenses.models.networks.normalized import IMAGENET_MEAN, IMAGENET_STD
from defenses.noise import Noise

G, META = load("heterogeneous")
MEAN, SPREAD = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


class Toy(nn.Module):
    """Four convolutions with ReLU, strides 1, 2, 2, 1."""

    feature_layers = ("layers.0", "layers.1", "layers.2", "layers.3")

    def __init__(self) -> None:
        super().__init__()

        class Layer(nn.Module):
            def __init__(self, weight: Tensor, stride: int) -> None:
                super().__init__()
                self.weight, self.stride = weight, stride

            def forward(self, x: Tensor) -> Tensor:
                return F.conv2d(x, self.weight, padding=1, stride=self.stride).relu()

        self.layers = nn.Sequential(*(Layer(G[f"clf_k{i}"], s) for i, s in ((1, 1), (2, 2), (3, 2), (4, 1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def recorded(steps: int, strong: int) -> RecordedNoise:
    """Normals in the source's order: e; per step e', e'' three times in the first `strong` steps, then one unused."""
    rows, normals = iter(G["noise"]), {}
    normals[0, 0] = next(rows)
    for k in range(1, steps + 1):
        normals |= {(stream, k): next(rows) for stream in range(1, 5)} if k <= strong else {}
        next(rows)
    return RecordedNoise(normals)


RELEASED = {"imagenet_input": True}
TEN = {"steps": 2, **RELEASED}
FIFTY = {"steps": 10, **RELEASED}
CASES = {
    "attack10": (TEN, recorded(2, 1)),
    "steps50": (FIFTY, recorded(10, 5)),
    "steps50_thr0.5": ({**FIFTY, "threshold": 0.5}, recorded(10, 5)),
}


def run(x: Tensor, case: str) -> Tensor:
    fields, noise = CASES[case]
    score = toy_score(G, tau=lambda label: label / 1000)
    return HeterogeneousNoise(**fields).build(classifier=Toy(), score=score)(x, noise)


def test_golden_attention_at_the_released_input() -> None:
    found = attention(Toy(), (to_model_space(G["x01"]) - MEAN) / SPREAD)
    assert (found[:, 0] - G["attention"]).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("name", "fields"),
    [("threshold_0.9", {}), ("threshold_0.5", {"threshold": 0.5}), ("top_0.15", {"share": 0.15})],
)
def test_golden_masks(name: str, fields: dict) -> None:
    found = HeterogeneousNoise(**RELEASED, **fields).mask(Toy(), to_model_space(G["x01"]))
    assert torch.equal(found, G[f"mask_{name}"].bool())


def test_the_default_input_is_the_classifiers_own() -> None:
    found = HeterogeneousNoise(threshold=0.5).mask(Toy(), to_model_space(G["x01"]))
    assert torch.equal(found, attention(Toy(), G["x01"]) >= 0.5)


@pytest.mark.parametrize("case", CASES)
def test_golden_output(case: str) -> None:
    assert (run(G["x01"], case) - G[f"output_{case}"]).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("name", "case"), [("grad_mask_constant_steps50", "steps50"), ("grad_surrogate10", "attack10")]
)
def test_golden_gradients(name: str, case: str) -> None:
    x = G["x01"].clone().requires_grad_()
    (run(x, case) * G["readout"]).sum().backward()
    assert (x.grad - G[name]).abs().max() < META["arrays"][name]["tolerance"]


def test_exact_gradient_equals_finite_differences() -> None:
    """The mask is a threshold: constant around almost every image."""
    x, direction, h = G["x01"].clone().requires_grad_(), G["readout"].flip(-1), 1e-7
    (run(x, "attack10") * G["readout"]).sum().backward()
    ends = [(run(G["x01"] + s * h * direction, "attack10") * G["readout"]).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (x.grad * direction).sum()) < 1e-6 * abs(numeric)


def test_the_published_settings() -> None:
    defense = HeterogeneousNoise()
    assert defense.network_evaluations == 20 * 100
    labels: list[int] = []
    score = toy_score(G)
    network = score.network
    score.network = lambda x, label: (labels.append(int(label[0])), network(x, label))[1]
    defense.build(classifier=Toy(), score=score)(G["x01"][:1], Noise(0, torch.arange(1)))
    assert labels == [*range(203, 104, -2), *range(100, 0, -2)]
    surrogate = defense.surrogate()
    assert (surrogate.steps, surrogate.runs) == (2, 1)


def test_a_classifier_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a classifier"):
        HeterogeneousNoise().build(score=toy_score(G))


def test_ranges_are_named() -> None:
    for fields, message in (
        ({"t_weak": 0.3}, "t_weak in"),
        ({"share": 0.0}, "share in"),
        ({"t": 1.0}, "harmonize < 1000"),
        ({"steps": 201}, "at most 200 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            HeterogeneousNoise(**fields)
