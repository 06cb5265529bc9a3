"""StAdv: golden numbers of its parts and of a whole run, and the farthest that a pixel can move."""

import pytest
import torch
from golden import load
from linear_problem import defended, problem
from torch import Tensor, nn

from bench.attacks.base import Trace
from bench.attacks.stadv import StAdv, flow_norm, identity_grid, warp
from bench.threat import ThreatModel

THREAT = ThreatModel(epsilon=8 / 255)


class Tanh(nn.Module):
    """The fixture's two-layer network."""

    def __init__(self, g: dict[str, Tensor]) -> None:
        super().__init__()
        self.a1, self.a2 = g["A1"], g["A2"]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.a1.T) @ self.a2.T


class Pixel(nn.Module):
    """Logits (0, x[column] - threshold, -9) of one pixel in the middle row."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        value = 100 * (x[:, 0, 4, 4] - self.threshold)
        return torch.stack((torch.zeros_like(value), value, torch.full_like(value, -9.0)), 1)


def test_golden_parts() -> None:
    g, meta = load("stadv")
    identity = identity_grid(g["x01"])
    assert (identity - g["identity_grid"]).abs().max() < 1e-7
    grid = (identity + g["delta"]).requires_grad_()
    warped = warp(g["x01"], grid)
    assert (warped - g["warped"]).abs().max() < meta["arrays"]["warped"]["tolerance"]
    flow = flow_norm(grid - identity)
    assert (flow - g["flow_norm"]).abs().max() < meta["arrays"]["flow_norm"]["tolerance"]


def test_golden_run() -> None:
    g, meta = load("stadv")
    model, ids = defended(Tanh(g)), torch.arange(4)
    adversarial = StAdv(steps=8, eot=1).perturb(model, g["x01"], g["labels"], ids, THREAT, 0)
    assert (adversarial - g["adv"]).abs().max() < meta["arrays"]["adv"]["tolerance"]
    assert (adversarial - g["x01"]).abs().max() > 0.05


@pytest.mark.parametrize(("share", "robust"), [(0.9, False), (1.1, True)])
def test_reaches_as_far_as_the_bound(share: float, robust: bool) -> None:
    """On a ramp of slope s a pixel reads at most s * bound * width / 2 more, exactly."""
    slope, bound = 0.1, 0.1
    images = (slope * torch.arange(8.0) + 0.1).expand(3, 1, 8, 8).contiguous()
    threshold = float(images[0, 0, 4, 4]) + share * slope * bound * 4
    model = defended(Pixel(threshold))
    labels = torch.zeros(3, dtype=torch.long)
    adversarial = StAdv(steps=40, bound=bound, eot=1).perturb(model, images, labels, torch.arange(3), THREAT, 0)
    assert ((model(adversarial, None).argmax(1) == labels) == robust).all()


def test_batch_does_not_matter_and_eot_helps() -> None:
    classifier, images, labels, ids = problem(10)
    model, trace = defended(classifier, 0.2), Trace()
    attack = StAdv(steps=5, eot=4)
    whole = attack.perturb(model, images, labels, ids, THREAT, 3, trace=trace)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], THREAT, 3) for r in (slice(0, 3), slice(3, 10))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert [c["step"] for c in trace.curve()] == list(range(5)) and set(trace.looks.values()) == {5}
    THREAT.check(whole, images, restricted=attack.restricted)


def test_ranges() -> None:
    with pytest.raises(ValueError, match="bound > 0"):
        StAdv(bound=0)
    with pytest.raises(ValueError, match="smoothness"):
        StAdv(smoothness=-1)
