"""FlowPure: golden numbers of its three released settings and of a VP network, its surrogate, the EDM grid."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import column, vp_toy

from defenses.diffusion.denoise import denoise
from defenses.flowpure import FlowPure
from defenses.models.converters import ddpmpp_state
from defenses.models.flow_maps import VelocityMap
from defenses.models.networks.unet import Layout, ddpmpp_unet
from defenses.models.scores import load_score

G, META = load("flowpure")
NOISE = RecordedNoise({(0, 0): G["noise"]})
SETTINGS = {
    "015": FlowPure(),
    "02": FlowPure(start=1 / 3),
    "conditional": FlowPure(sigma=0.0, start=0.0),
}


def toy() -> VelocityMap:
    """v(t, x) = (c0 + c1 t) tanh(conv(x)); keeps the states that it was shown."""
    states = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        states.append(x.detach())
        bent = torch.tanh(F.conv2d(x, G["net_W"], G["net_b"], padding=1))
        return (G["net_c"][0] + G["net_c"][1] * column(t)) * bent

    model = VelocityMap(network, (3, 8, 8))
    model.states = states
    return model


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"flowpure {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def check_both(defense: FlowPure, score: object, output: str, gradient: str) -> None:
    x = G["x01"].clone().requires_grad_()
    out = defense.build(score=score)(x, NOISE)
    check(out, output)
    (out * G["readout"]).sum().backward()
    check(x.grad, gradient)


@pytest.mark.parametrize("name", SETTINGS)
def test_golden_output_and_gradient(name: str) -> None:
    check_both(SETTINGS[name], toy(), f"output_{name}", f"grad_exact_{name}")
    check_both(SETTINGS[name].surrogate(), toy(), f"output_surrogate_{name}", f"grad_surrogate_{name}")


def test_golden_states() -> None:
    score = toy()
    with torch.no_grad():
        FlowPure().build(score=score)(G["x01"], NOISE)
    check(torch.stack(score.states), "states_015")


@pytest.mark.parametrize("name", ["015", "02"])
def test_golden_of_a_vp_network(name: str) -> None:
    check_both(SETTINGS[name], vp_toy(G), f"vp_output_{name}", f"vp_grad_exact_{name}")


def test_it_is_the_probability_flow_on_a_linear_grid() -> None:
    score, defense = vp_toy(G), FlowPure(start=0.25, points=6)
    levels = [2 * 0.3 * 0.75 * (5 - k) / 5 for k in range(6)]
    y = 2 * G["x01"] - 1 + levels[0] * G["noise"]
    for level, following in zip(levels, levels[1:], strict=False):
        y = y + (following - level) / level * (y - denoise(score, y, level))
    assert (defense.build(score=score)(G["x01"], NOISE) - (y + 1) / 2).abs().max() < 1e-12


def test_the_surrogate_of_ten_points_has_five() -> None:
    assert (FlowPure().network_evaluations, FlowPure().surrogate().network_evaluations) == (9, 4)


def test_the_conditional_form_needs_a_velocity_network() -> None:
    with pytest.raises(ValueError, match="needs a velocity network trained on attacked images"):
        SETTINGS["conditional"].build(score=vp_toy(G))
    assert not SETTINGS["conditional"].stochastic and FlowPure().stochastic


def test_a_velocity_network_by_file_is_shown_the_flow_time(tmp_path: Path) -> None:
    unet = ddpmpp_unet(Layout(channels=(16, 32), blocks=1, attention=(False, True))).eval()
    path = tmp_path / "flow.pt"
    torch.save({"model": ddpmpp_state(unet)}, path)
    score, noise = load_score(f"file:velocity8:{path}"), load_score(f"file:ddpmpp8:{path}")
    x, t = torch.rand(2, 3, 8, 8), torch.tensor([0.25, 0.75])
    with torch.no_grad():
        assert torch.equal(score.velocity(x, t), noise.network(x, t))
    with pytest.raises(ValueError, match="found a VelocityMap. Use it with the defense flowpure"):
        score.epsilon(x, t)


def test_ranges_are_named() -> None:
    for fields in ({"sigma": -0.1}, {"start": 1.0}, {"points": 1}):
        with pytest.raises(ValueError, match="Expected sigma >= 0, start in"):
            FlowPure(**fields)
