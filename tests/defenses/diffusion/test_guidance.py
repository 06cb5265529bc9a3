"""Contrastive losses against golden numbers."""

import re

import pytest
import torch
from golden import load

from defenses.diffusion.guidance import contrastive_loss, input_gradient, reconstruction_guide, safe_sqrt, ssim

G, _ = load("contrastive_loss")
RELEASED = [k for k in G if re.match(r"loss_(hard|soft)_B", k)]


@pytest.mark.parametrize("key", RELEASED)
def test_released_losses_and_gradients(key: str) -> None:
    kind, batch, temperature, beta, tau = re.match(r"loss_(\w+)_B(\d+)_T(.*)_b(.*)_tau(.*)", key).groups()
    x1, x2 = (G[f"x{i}_{batch}"].clone().unsqueeze(0).requires_grad_() for i in (1, 2))
    loss = contrastive_loss(
        x1, x2, kind=f"released_{kind}", temperature=float(temperature), beta=float(beta), tau_plus=float(tau)
    ).sum()
    assert abs(loss.item() - G[key].item()) < 1e-12
    g1, g2 = torch.autograd.grad(loss, (x1, x2))
    assert torch.allclose(g1[0], G[key.replace("loss", "g1")], atol=1e-12)
    assert torch.allclose(g2[0], G[key.replace("loss", "g2")], atol=1e-12)


def test_there_are_released_goldens() -> None:
    assert len(RELEASED) > 10


@pytest.mark.parametrize("kind", ["infonce", "ntxent", "hcl"])
def test_losses_as_normally_defined(kind: str) -> None:
    keys = [k for k in G if k.startswith(kind)]
    assert keys
    for key in keys:
        batch, temperature = re.search(r"B(\d+)", key).group(1), re.search(r"T([\d.]+\d)", key)
        value = contrastive_loss(
            G[f"x1_{batch}"].unsqueeze(0),
            G[f"x2_{batch}"].unsqueeze(0),
            kind={"hcl": "hard_negatives"}.get(kind, kind),
            temperature=float(temperature.group(1)) if temperature else 1.0,
        )
        assert abs(value.item() - G[key].item()) < 1e-12, key


def test_groups_are_independent() -> None:
    x1, x2 = G["x1_4"].unsqueeze(0), G["x2_4"].unsqueeze(0)
    both = contrastive_loss(torch.cat((x1, x2)), torch.cat((x2, x1)), kind="released_hard")
    assert torch.allclose(both[0], contrastive_loss(x1, x2, kind="released_hard")[0])


def test_root_of_zero_has_derivative_zero() -> None:
    v = torch.tensor([0.0, 4.0], requires_grad=True)
    safe_sqrt(v).sum().backward()
    assert v.grad.tolist() == [0.0, 0.25]


def test_an_image_is_most_similar_to_itself() -> None:
    a, b = torch.rand(2, 4, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(ssim(a, a), torch.ones(4, dtype=torch.float64))
    assert (ssim(a, b) < 0.9).all() and torch.allclose(ssim(a, b), ssim(b, a))


@pytest.mark.parametrize("kind", ["mse", "ssim"])
def test_the_guide_climbs_towards_the_reference_and_vanishes_there(kind: str) -> None:
    x, reference = torch.rand(2, 4, 3, 8, 8, dtype=torch.float64)
    guide = reconstruction_guide(x, reference, kind=kind)
    assert (ssim(x + 1e-3 * guide, reference) > ssim(x, reference)).all()
    assert (reconstruction_guide(x, x.clone(), kind=kind).abs() < 1e-12).all()


@pytest.mark.parametrize("differentiated", [True, False])
def test_input_gradient_has_one_value_and_a_derivative_where_asked(differentiated: bool) -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    slope = input_gradient(lambda y: y**3, x, differentiated=differentiated)
    assert slope.tolist() == [12.0, 27.0] and slope.requires_grad == differentiated
    with torch.no_grad():
        assert input_gradient(lambda y: y**3, x, differentiated=differentiated).tolist() == [12.0, 27.0]
    if differentiated:
        assert torch.autograd.grad(slope.sum(), x)[0].tolist() == [12.0, 18.0]
