"""Published state dicts in diffusers' network: golden outputs, gradients, scores; every entry of the files used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from network_fixtures import empty_state, relative, tensors
from torch import Tensor

from defenses.models.converters import ddpmpp_state, load_ddpmpp, load_guided
from defenses.models.networks.unet import DDPMPP_DEEP, GUIDED_256, EpsilonUNet, Layout, ddpmpp_unet, guided_unet
from defenses.models.score_models import NetworkScore

TOY = Layout(channels=(32, 64), blocks=1, attention=(False, True))
LOADERS = {"ddpmpp_cifar10": (load_ddpmpp, DDPMPP_DEEP), "guided256_uncond": (load_guided, GUIDED_256)}


@pytest.mark.parametrize("name", LOADERS)
def test_every_entry_of_the_real_listing_is_used(name: str, shared: Path) -> None:
    load, layout = LOADERS[name]
    state = empty_state(shared, name)
    network = load(state, layout)
    parameters = sum(value.numel() for key, value in state.items() if key != "sigmas")
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("change", ["missing", "left over"])
def test_an_entry_too_few_or_too_many_is_refused(name: str, change: str, shared: Path) -> None:
    load, layout = LOADERS[name]
    state = empty_state(shared, name)
    last = list(state)[-1]
    if change == "missing":
        del state[last]
    else:
        state["out.9.weight"] = state[last]
    with pytest.raises(ValueError, match="(?s)does not fit.*" + ("conv_out" if change == "missing" else r"out\.9")):
        load(state, layout)


def test_ddpmpp_state_undoes_load_ddpmpp(shared: Path) -> None:
    """Names, order and shapes of the real listing, 956 parameters and `sigmas`; every value of the small weights."""
    listed = empty_state(shared, "ddpmpp_cifar10")
    for network in (load_ddpmpp(listed), ddpmpp_unet(DDPMPP_DEEP)):
        state = ddpmpp_state(network)
        assert list(state) == list(listed)
        assert all(state[name].shape == value.shape for name, value in listed.items())
    weights = tensors(shared, "ddpmpp_small_weights")
    state = ddpmpp_state(load_ddpmpp(weights))
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_score_sdes_noise_levels() -> None:
    sigmas = ddpmpp_state(ddpmpp_unet(TOY))["sigmas"]
    assert sigmas.dtype == torch.float64 and sigmas.shape == (1000,)
    assert sigmas[[0, -1]].tolist() == pytest.approx([50, 0.01])


def test_the_state_of_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="DDPM.. network of Layout.*found further entries: down_blocks"):
        ddpmpp_state(ddpmpp_unet(TOY), Layout(channels=(32,), blocks=1, attention=(False,)))


@pytest.mark.parametrize("load", [load_ddpmpp, load_guided])
def test_another_networks_state_is_refused(load: Callable[..., EpsilonUNet], shared: Path) -> None:
    for name, (own, _) in LOADERS.items():
        if own is not load:
            with pytest.raises(ValueError, match="Expected a state dict of"):
                load(empty_state(shared, name))


def test_another_size_is_refused(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"channels=\(128, 256, 256, 256\).*found Layout.*\(32, 64\)"):
        load_ddpmpp(tensors(shared, "ddpmpp_small_weights"), DDPMPP_DEEP)


@pytest.mark.parametrize("case", range(3))
def test_ddpmpp_golden(case: int, shared: Path) -> None:
    """Outputs, and scores -eps / sigma(t) up to 254; labels 999 t unrounded. The reference's float32 sigma(0.001) is
    off by 2e-4, from 1 - exp of a tiny number, so scores are compared over its sigma and ours with it alone."""
    golden = tensors(shared, "ddpmpp_small_golden")
    score = NetworkScore(load_ddpmpp(tensors(shared, "ddpmpp_small_weights")), (3, 32, 32))
    x, t = golden[f"case{case}.x"], golden[f"case{case}.t"]
    with torch.no_grad():
        out = score.epsilon(x, t)
    torch.testing.assert_close(out, golden[f"case{case}.out"], rtol=0, atol=5e-5)
    sigma = golden[f"case{case}.std"]
    assert relative(-out / sigma.view(-1, 1, 1, 1), golden[f"case{case}.score"]) < 1e-4
    torch.testing.assert_close(score.schedule.sigma(t), sigma.flatten(), rtol=3e-4, atol=0)


@pytest.mark.parametrize("case", range(3))
def test_guided_golden(case: int, shared: Path) -> None:
    golden = tensors(shared, "guided_small_golden")
    network = load_guided(tensors(shared, "guided_small_weights"), head=16)
    with torch.no_grad():
        out = network(golden[f"case{case}.x"], golden[f"case{case}.timesteps"])
    torch.testing.assert_close(out, golden[f"case{case}.out"], rtol=0, atol=5e-5)


def test_guided_reverse_sde_convention(shared: Path) -> None:
    """trunc(1000 t) for the network, the exact t for the divisor; the first three channels are the noise."""
    golden = {key[5:]: value for key, value in tensors(shared, "guided_small_golden").items() if key[:5] == "cont."}
    network = load_guided(tensors(shared, "guided_small_weights"), head=16)
    score = NetworkScore(network, (3, 32, 32), labels="index")
    with torch.no_grad():
        eps = score.epsilon(golden["x"], golden["t"])
    torch.testing.assert_close(eps, golden["eps"], rtol=0, atol=5e-5)
    assert relative(-eps / score.schedule.sigma(golden["t"]).view(-1, 1, 1, 1), golden["score"]) < 1e-4


@pytest.mark.parametrize("name", ["ddpmpp_small", "guided_small"])
def test_gradient_golden(name: str, shared: Path) -> None:
    golden, weights = tensors(shared, f"{name}_golden"), tensors(shared, f"{name}_weights")
    network = load_ddpmpp(weights) if name == "ddpmpp_small" else load_guided(weights, head=16)
    x = golden["case0.x"].requires_grad_()
    labels = golden["case0.labels" if name == "ddpmpp_small" else "case0.timesteps"]
    (gradient,) = torch.autograd.grad((network(x, labels) * golden["case0.cotangent"]).sum(), x)
    assert relative(gradient, golden["case0.grad_x"]) < 1e-4


@pytest.mark.parametrize("make", [ddpmpp_unet, guided_unet])
def test_second_derivatives_pass_through_the_attention(make: Callable[[Layout], EpsilonUNet]) -> None:
    """A Hessian times a vector, against differences of gradients in float64."""
    network = make(TOY).double().eval().requires_grad_(False)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weight, v = torch.randn_like(x), torch.randn_like(x)

    def gradient(x: Tensor, **options: bool) -> Tensor:
        out = network(x, torch.tensor([150.0]))[:, :3]
        return torch.autograd.grad((out * weight).sum(), x, **options)[0]

    (hessian,) = torch.autograd.grad((gradient(x, create_graph=True) * v).sum(), x)
    torch.testing.assert_close(hessian, (gradient(x + 1e-5 * v) - gradient(x - 1e-5 * v)) / 2e-5, rtol=1e-4, atol=1e-5)


def test_labels_are_not_rounded() -> None:
    network, x = ddpmpp_unet(TOY).eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        one, other = network(x[:1].expand(2, -1, -1, -1), torch.tensor([100.0, 100.5]))
    assert (one - other).abs().max() > 1e-6
