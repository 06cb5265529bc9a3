"""The balls: in L1 the nearest image in ball and box at once, starts, steps, distances, and who may attack there."""

import pytest
import torch
from torch import Tensor

from bench.attacks import attacks
from bench.attacks.base import check_norm
from bench.attacks.cascade import Cascade
from bench.cell import Cell
from bench.threat import NORMS, Norm, ThreatModel, project_l1, sparse_signs
from defenses.undefended import Undefended

RADII = (0.0, 0.5, 3.0, 12.0, 200.0)


def points(values: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(images, adversarial): sixty images, half of them with values on the box's walls, and points near and far."""
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(60, 1, 2, values // 2, generator=g)
    images[::2] = (3 * images[::2] - 1).clamp(0, 1)
    away = torch.logspace(-3, 1.5, 60).view(-1, 1, 1, 1)
    return images, images + away * torch.randn(images.shape, generator=g)


def by_bisection(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The projection by its optimality conditions: one shift an image, found by halving, in float64."""
    centre, delta = images.double(), adversarial.double() - images.double()
    room = torch.where(delta > 0, 1 - centre, centre)

    def moves(shift: Tensor) -> Tensor:
        return (delta.abs() - shift.view(-1, 1, 1, 1)).clamp_min(0).minimum(room)

    low, high = torch.zeros(len(images)).double(), delta.abs().flatten(1).amax(1)
    for _ in range(100):
        middle = (low + high) / 2
        far = moves(middle).flatten(1).sum(1) > epsilon
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    fits = moves(torch.zeros_like(high)).flatten(1).sum(1) <= epsilon
    return centre + delta.sign() * moves(torch.where(fits, 0.0, high))


@pytest.mark.parametrize("epsilon", RADII)
@pytest.mark.parametrize("values", [10, 64, 3072])
def test_l1_projection_is_exact(values: int, epsilon: float) -> None:
    images, adversarial = points(values)
    wanted = by_bisection(adversarial, images, epsilon)
    exact = project_l1(adversarial.double(), images.double(), epsilon)
    assert torch.allclose(exact, wanted, rtol=0, atol=1e-12)
    found = project_l1(adversarial, images, epsilon)
    assert found.dtype == torch.float32 and torch.allclose(found.double(), wanted, rtol=0, atol=1.2e-7)
    assert found.amin() >= 0 and found.amax() <= 1
    assert ((found.double() - images.double()).abs().flatten(1).sum(1) <= epsilon).all()  # without any tolerance
    assert torch.equal(project_l1(found, images, epsilon), found)


def test_l1_projection_beats_every_other_point() -> None:
    """A quadratic program of four values against a fine grid of the feasible set: nothing there is nearer."""
    axis = torch.linspace(0, 1, 26)
    grid = torch.cartesian_prod(axis, axis, axis, axis).double()
    g = torch.Generator().manual_seed(1)
    for _ in range(40):
        image = torch.randint(0, 26, (4,), generator=g).double() / 25
        away = image + 1.5 * torch.randn(4, generator=g).double()
        inside = grid[(grid - image).abs().sum(1) <= 0.8 + 1e-9]
        found = project_l1(away[None], image[None], 0.8)[0]
        assert (found - away).norm() <= (inside - away).norm(dim=1).min() + 1e-9


def test_l1_uses_the_radius_that_ball_and_box_in_turn_leave() -> None:
    """Croce & Hein's point: a projection on the ball alone, then on the box, ends well inside the ball."""
    images, adversarial = points(3072)
    images, adversarial = images[-10::2], adversarial[-10::2]  # far points, a third of the values on a wall
    threat = ThreatModel(norm="L1", epsilon=12.0)
    used = threat.distance(threat.project(adversarial, images), images)
    assert torch.allclose(used, torch.full_like(used, 12.0), rtol=1e-5)
    delta = adversarial - images
    shrunk = (images + delta.sign() * (delta.abs() - _soft(delta, 12.0)).clamp_min(0)).clamp(0, 1)
    assert (threat.distance(shrunk, images) < 0.9 * used).all()


def _soft(delta: Tensor, epsilon: float) -> Tensor:
    """The shift of the plain projection on the ball (Duchi et al., ICML 2008)."""
    size = delta.abs().flatten(1).sort(1, descending=True).values
    over = (size.cumsum(1) - epsilon) / torch.arange(1, size.shape[1] + 1)
    count = (size > over).sum(1, keepdim=True)
    return over.gather(1, count - 1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("values", [64, 3 * 224 * 224])
def test_l1_starts_lie_in_the_ball_and_differ(values: int) -> None:
    images = torch.rand(4, 1, 2, values // 2, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    threat = ThreatModel(norm="L1", epsilon=3.0)
    unit = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    unit[0, 0, 0, 0], unit[0, 0, 0, 1] = 0.0, 1 - 2**-24
    start = threat.random_start(images, unit)
    threat.check(start, images)
    assert torch.allclose(threat.distance(start, images), torch.full((4,), 3.0).double(), rtol=1e-4)
    assert len({tuple(row.tolist()) for row in (start - images).flatten(1)}) == 4


def test_l1_steps_follow_the_largest_values() -> None:
    gradient = torch.tensor([[3.0, -5.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    found = sparse_signs(gradient, torch.tensor([2.0, 2.0]))
    assert torch.equal(found[0], torch.tensor([0.5, -0.5, 0, 0, 0])) and not found[1].any()
    broad = torch.randn(3, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    step = ThreatModel(norm="L1", epsilon=1.0).direction(broad)
    assert (step != 0).flatten(1).sum(1).tolist() == [5, 5, 5]
    assert torch.allclose(step.abs().flatten(1).sum(1), torch.ones(3))


def test_l1_judges_distances_and_8_bit_pictures() -> None:
    images = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    threat = ThreatModel(norm="L1", epsilon=2.0)
    adversarial = threat.random_start(images, torch.rand(images.shape, generator=torch.Generator().manual_seed(1)))
    rounded = threat.round_to_8_bits(adversarial, images)
    threat.check(rounded, images)
    assert torch.allclose(rounded * 255, (rounded * 255).round(), atol=1e-3)
    assert threat.across(images) == 192 and ThreatModel(norm="L2", epsilon=1.0).across(images) == 192**0.5
    with pytest.raises(ValueError, match="within L1 2"):
        threat.check(images + 0.02 * (0.5 - images).sign(), images)
    assert ThreatModel(norm="L1", epsilon=0.25 * 150528).epsilon == 0.25 * 150528  # what a gate asks on ImageNet


def cell(attack: str, norm: Norm) -> Cell:
    threat = ThreatModel(norm=norm, epsilon=0.1)
    return Cell(dataset="digits", classifier="digits_cnn", defense=Undefended(), attack=attacks.make(attack),
                threat=threat)  # fmt: skip


@pytest.mark.parametrize("name", list(attacks))
def test_a_cell_refuses_a_norm_that_its_attack_is_not_made_for(name: str) -> None:
    for norm in NORMS:
        if norm in attacks[name].norms:
            assert cell(name, norm).threat.norm == norm
        else:
            with pytest.raises(ValueError, match=f"{name} attacks in .*, got norm {norm}. Use one of .*apgd_eot"):
                cell(name, norm)


def test_which_attacks_know_l1() -> None:
    known = {name for name in attacks if "L1" in attacks[name].norms}
    assert {"apgd_eot", "apgd_t_eot", "pgd_eot", "autoattack_standard", "transfer", "noise"} <= known
    assert not known & {"momentum_pgd", "square_eot", "rays_eot", "bpda_eot", "strong", "gold", "eotpgd_10", "mefa"}


def test_a_cascade_knows_the_norms_of_all_its_members() -> None:
    both = Cascade(members=(("apgd_eot", {}, None), ("square_eot", {}, None)))
    assert both.norms == ("Linf", "L2") and Cascade().norms == NORMS
    assert Cascade(members=(("rays_eot", {}, None), ("pgd_eot", {}, None))).norms == ("Linf",)
    with pytest.raises(ValueError, match="mefa attacks in Linf, got norm L2"):
        check_norm(attacks.make("mefa", {"method": "apgd"}), "L2")
