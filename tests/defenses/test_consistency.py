"""Consistency purification: golden numbers with consistency weights and with a VP network, one-shot denoising."""

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import column, vp_toy

from defenses.consistency import Consistency, consistency
from defenses.edm_one_shot import EDMOneShot
from defenses.models.flow_maps import ConsistencyMap

G, META = load("consistency")
NOISE = RecordedNoise({(0, k): n for k, n in enumerate(G["noise"])})
SIGMA = META["meta"]["sigma"]
LEVEL = torch.full((3,), SIGMA, dtype=torch.float64)


def toy() -> ConsistencyMap:
    """F(u, l) = (c0 + c1 l) tanh(conv(u))."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        bent = torch.tanh(F.conv2d(x, G["net_W"], G["net_b"], padding=1))
        return (G["net_c"][0] + G["net_c"][1] * column(label)) * bent

    return ConsistencyMap(network, (3, 8, 8))


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"consistency {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def test_golden_functions() -> None:
    check(toy().consistency(G["probe"], LEVEL), "consistency_value")
    check(toy().denoiser(G["probe"], LEVEL), "denoiser_value")


@pytest.mark.parametrize(("case", "evaluations"), [("one", 1), ("three", 3)])
def test_golden_output_and_gradient(case: str, evaluations: int) -> None:
    x = G["x01"].clone().requires_grad_()
    out = Consistency(sigma=SIGMA, evaluations=evaluations).build(score=toy())(x, NOISE)
    check(out, f"output_{case}")
    (out * G["readout"]).sum().backward()
    check(x.grad, f"grad_exact_{case}")


def test_golden_of_a_vp_network() -> None:
    x = G["x01"].clone().requires_grad_()
    out = Consistency(sigma=SIGMA).build(score=vp_toy(G))(x, NOISE)
    check(out, "vp_output_one")
    (out * G["readout"]).sum().backward()
    check(x.grad, "vp_grad_exact_one")


def test_of_a_denoiser_it_is_one_shot_denoising_to_half_a_percent() -> None:
    found, plain = (d.build(score=vp_toy(G))(G["x01"], NOISE) for d in (Consistency(sigma=0.4), EDMOneShot(sigma=0.4)))
    assert 1e-5 < (found - plain).norm() / plain.norm() < 5e-3


def test_the_end_of_the_flow_is_the_state_itself() -> None:
    assert (toy().consistency(G["probe"], torch.full((3,), 0.002)) - G["probe"]).abs().max() < 1e-7
    assert (consistency(vp_toy(G), G["probe"], 0.002) - G["probe"]).abs().max() < 1e-12


def test_other_defenses_say_what_such_a_network_is_for() -> None:
    with pytest.raises(ValueError, match="found a ConsistencyMap. Use it with the defense consistency"):
        EDMOneShot().build(score=toy())(G["x01"], NOISE)


def test_ranges_are_named() -> None:
    for fields in ({"sigma": 0.002}, {"evaluations": 0}):
        with pytest.raises(ValueError, match="Expected sigma > 0.002"):
            Consistency(**fields)
