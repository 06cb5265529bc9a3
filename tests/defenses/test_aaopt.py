"""AAOpt: golden numbers of both settings, of the released one-step surrogates, of the batch inside Adam's 1e-8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from closed_forms import assert_exact_gradient
from contract import tiny_classifier
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import column, edm_toy

from defenses.aaopt import AAOpt, level_index
from defenses.defended import Gradient
from defenses.models.energy import EnergyScore
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

G, META = load("aaopt")
RANDOM = AAOpt(steps=5, perturbation="toy", shared_level=True, reference_batch_size=3)
CASES = {
    "full": RANDOM,
    "seq": AAOpt(
        steps=5, sigma=META["meta"]["seq_forward"], levels="sequential", perturbation="toy", reference_batch_size=3
    ),
}  # fmt: skip
NOISE = RecordedNoise(
    {(0, k + 1): n for k, n in enumerate(G["noise"])} | {(1, k + 1): n for k, n in enumerate(G["noise_pert"])},
    {(2, k + 1): u for k, u in enumerate(G["uniform"])},
)


def perturbations(name: str = "toy") -> NetworkScore:
    """P(h, i) = (e0 + e1 i / 1000) tanh(conv(h))."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        bent = torch.tanh(F.conv2d(x, G["pert_V"], G["pert_a"], padding=1))
        return (G["pert_e"][0] + G["pert_e"][1] * column(label) / 1000) * bent

    return NetworkScore(network, (3, 8, 8))


@pytest.fixture(autouse=True)
def toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defenses.models.scores.load_score", perturbations)


def run(defense: AAOpt, x: Tensor, gradient: Gradient = "exact") -> Tensor:
    return defense.build(score=edm_toy(G), gradient=gradient)(x, NOISE)


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"aaopt {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def check_both(defense: AAOpt, output: str, gradient: str, kind: Gradient = "exact") -> None:
    x = G["x01"].clone().requires_grad_()
    out = run(defense, x, kind)
    check(out, output)
    (out * G["readout"]).sum().backward()
    check(x.grad, gradient)


@pytest.mark.parametrize("case", CASES)
def test_golden_output_and_exact_gradient(case: str) -> None:
    check_both(CASES[case], f"output_{case}", f"grad_exact_{case}")


@pytest.mark.parametrize("case", CASES)
def test_the_released_full_gradient_is_the_identity_inside_the_clip(case: str) -> None:
    check_both(CASES[case], f"output_{case}", f"grad_reference_{case}", kind="straight_through")


def test_golden_surrogates() -> None:
    check_both(RANDOM.surrogate(), "output_1iter", "grad_1iter")
    changed = AAOpt(perturbation="toy", shared_level=True, reference_batch_size=3, stop_gradient=False)
    check_both(changed.surrogate(), "output_1iter_nosg", "grad_1iter_nosg")


def test_golden_batch_size() -> None:
    """160 images of 3072 values are 2560 of the toy's 192."""
    defense = AAOpt(steps=5, perturbation="toy", shared_level=True, reference_batch_size=160 * 3072 // 192)
    check(run(defense, G["x01"]), "output_full_b160")


@pytest.mark.parametrize(("case", "name"), [("full", "random"), ("seq", "seq")])
def test_golden_levels(case: str, name: str) -> None:
    found = torch.stack([CASES[case].level(G["x01"], NOISE, k) for k in range(5)])
    assert (found - G[f"t_{name}"].unsqueeze(1)).abs().max() < META["arrays"][f"t_{name}"]["tolerance"]
    assert torch.equal(level_index(found), G[f"index_{name}"].unsqueeze(1).expand(5, 3))


@pytest.mark.parametrize("shared", [False, True])
def test_exact_gradient_equals_finite_differences(shared: bool) -> None:
    defense = AAOpt(steps=4, perturbation="toy", shared_level=shared, reference_batch_size=3)
    noise = Noise(0, torch.arange(3))
    assert_exact_gradient(lambda x: defense.build(score=edm_toy(G))(x, noise), G["x01"], h=1e-7)


@pytest.mark.parametrize("stop", [True, False])
def test_a_defended_classifier_differentiates_the_released_step(stop: bool) -> None:
    defense = AAOpt(perturbation="toy", stop_gradient=stop)
    linear = torch.randn(10, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Linear(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ linear.T

    noise, x = Noise(0, torch.arange(3)), G["x01"].clone().requires_grad_()
    defended = defense.defend(Linear(), edm_toy(G), gradient="surrogate")
    (found,) = torch.autograd.grad(defended(x, noise)[:, 0].sum(), x)
    out = defense.surrogate().build(score=edm_toy(G))(x, noise)
    inside = ((out > 0) & (out < 1)).double()
    assert torch.equal(found, inside * linear[0].view(1, 3, 8, 8)) == stop
    with torch.no_grad():  # without gradients it is the defense of 20 steps
        assert torch.equal(defended(x, noise), Linear()(defense.build(score=edm_toy(G))(x, noise)))


def test_the_shared_level_couples_the_batch_only_where_levels_are_random() -> None:
    assert RANDOM.batch_coupled and not CASES["seq"].batch_coupled and not AAOpt().batch_coupled


def test_the_perturbation_network_counts_as_one_that_the_defense_brings() -> None:
    assert RANDOM.networks().scores == ("toy",) and AAOpt().networks().scores == ()


def test_a_perturbation_network_must_predict_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defenses.models.scores.load_score", lambda name: EnergyScore(tiny_classifier, (1, 8, 8)))
    with pytest.raises(ValueError, match="Expected a perturbation network that predicts noise, found EnergyScore"):
        RANDOM.build(score=edm_toy(G))


def test_ranges_are_named() -> None:
    for fields, message in (
        ({"levels": "fixed"}, "Expected levels among random, sequential"),
        ({"spread": 0.25}, "0 <= spread < sigma"),
        ({"weight": -1.0}, "Expected weight >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            AAOpt(**fields)
