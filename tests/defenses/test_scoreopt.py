"""ScoreOpt-O and -N: golden numbers of both settings, second-order gradients, the surrogate, the batch."""

import pytest
import torch
from golden import RecordedNoise, load
from torch import Tensor, nn
from toy_denoisers import edm_toy, vp_toy

from defenses.base import Purifier
from defenses.edm_one_shot import EDMOneShot
from defenses.noise import Noise
from defenses.scoreopt_n import ScoreOptN
from defenses.scoreopt_o import ScoreOptO

G, META = load("scoreopt")
VP, VP_META = load("denoiser_from_vp")
ADAPTIVE = ScoreOptO(shared_level=True, reference_batch_size=3)
CASES = {
    "x0_bpda": ADAPTIVE,
    "x0_transfer": ScoreOptO(sigma=0.25, steps=20, step_size=0.01, shared_level=True, reference_batch_size=3),
    "xt_bpda": ScoreOptN(reference_batch_size=3),
    "xt_transfer": ScoreOptN(sigma=0.25, steps=5, reference_batch_size=3),
}


def noise_o(rows: slice = slice(None)) -> RecordedNoise:
    return RecordedNoise(
        {(0, k + 1): n[rows] for k, n in enumerate(G["noise"])}, {(1, k + 1): u for k, u in enumerate(G["uniform"])}
    )


def noise_for(defense: Purifier, rows: slice = slice(None)) -> RecordedNoise:
    return noise_o(rows) if isinstance(defense, ScoreOptO) else RecordedNoise({(0, 0): G["noise"][0][rows]})


def run(defense: Purifier, x: Tensor, rows: slice = slice(None)) -> Tensor:
    return defense.build(score=edm_toy(G))(x, noise_for(defense, rows))


@pytest.mark.parametrize("case", CASES)
def test_golden_output(case: str) -> None:
    out = run(CASES[case], G["x01"])
    assert (out - G[f"output_{case}"]).abs().max() < META["arrays"][f"output_{case}"]["tolerance"]


@pytest.mark.parametrize("case", ["x0_bpda", "x0_transfer"])
def test_golden_levels(case: str) -> None:
    for k, expected in enumerate(G[f"sigma_{case}"], start=1):
        found = CASES[case].levels(G["x01"], noise_o(), k)
        assert torch.allclose(found, expected.expand(3), atol=1e-12)


def test_golden_image_alone() -> None:
    """The source's average over a batch of one."""
    out = run(ScoreOptO(shared_level=True, reference_batch_size=1), G["x01"][:1], slice(1))
    assert (out - G["output_x0_bpda_image0_alone"]).abs().max() < 1e-7


def gradient(defense: Purifier) -> Tensor:
    x = G["x01"].clone().requires_grad_()
    (run(defense, x) * G["readout"]).sum().backward()
    return x.grad


def test_golden_exact_gradient() -> None:
    tolerance = META["arrays"]["grad_exact_x0_bpda"]["tolerance"]
    assert (gradient(ADAPTIVE) - G["grad_exact_x0_bpda"]).abs().max() < tolerance


def test_golden_output_and_gradient_on_a_vp_network() -> None:
    x = VP["x01"].clone().requires_grad_()
    uniforms = {(1, k + 1): (s - 0.4) / 0.2 for k, s in enumerate(VP["sigma_shared"])}
    recorded = RecordedNoise({(0, k + 1): n for k, n in enumerate(VP["noise"])}, uniforms)
    out = ADAPTIVE.build(score=vp_toy(VP))(x, recorded)
    assert (out - VP["output_scoreopt_x0"]).abs().max() < VP_META["arrays"]["output_scoreopt_x0"]["tolerance"]
    (out * VP["readout"]).sum().backward()
    tolerance = VP_META["arrays"]["grad_exact_scoreopt_x0"]["tolerance"]
    assert (x.grad - VP["grad_exact_scoreopt_x0"]).abs().max() < tolerance


@pytest.mark.parametrize("case", ["x0_bpda", "xt_transfer"])
def test_exact_gradient_equals_finite_differences(case: str) -> None:
    direction, h = G["readout"].flip(-1) / 10, 1e-7
    ends = [(run(CASES[case], G["x01"] + s * h * direction) * G["readout"]).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (gradient(CASES[case]) * direction).sum()) < 1e-5 * abs(numeric)


@pytest.mark.parametrize("case", CASES)
def test_value_is_the_same_without_gradients_and_without_batch_mates(case: str) -> None:
    defense = CASES[case]
    with torch.no_grad():
        value = run(defense, G["x01"])
        assert (value - run(defense, G["x01"].clone().requires_grad_())).abs().max() < 1e-12
        assert (value[:1] - run(defense, G["x01"][:1], slice(1))).abs().max() < 1e-12


def test_levels_are_per_image_unless_shared() -> None:
    noise = Noise(0, torch.arange(3))
    own, shared = ScoreOptO().levels(G["x01"], noise, 1), ADAPTIVE.levels(G["x01"], noise, 1)
    assert len(own.unique()) == 3 and len(shared.unique()) == 1
    assert all(0.4 <= level <= 0.6 for level in torch.cat((own, shared)).tolist())
    assert ADAPTIVE.batch_coupled and not ScoreOptO().batch_coupled


@pytest.mark.parametrize("defense", [ScoreOptO(sigma=0.3), ScoreOptN(sigma=0.3)])
def test_the_surrogate_gradient_is_that_of_one_denoising(defense: Purifier) -> None:
    assert defense.surrogate() == EDMOneShot(sigma=0.3)
    noise, readout = Noise(0, torch.arange(3)), G["readout"]
    found, expected = (G["x01"].clone().requires_grad_() for _ in range(2))
    defended = defense.defend(nn.Flatten(), edm_toy(G), gradient="surrogate")
    (defended(found, noise) * readout.flatten(1)).sum().backward()
    (EDMOneShot(sigma=0.3).build(score=edm_toy(G))(expected, noise) * readout).sum().backward()
    assert torch.allclose(found.grad, expected.grad)


@pytest.mark.parametrize(
    ("cls", "fields"), [(ScoreOptO, {"spread": 0.6}), (ScoreOptO, {"steps": 0}), (ScoreOptN, {"sigma": 0.0})]
)
def test_ranges_are_named(cls: type, fields: dict) -> None:
    with pytest.raises(ValueError, match="Expected"):
        cls(**fields)
