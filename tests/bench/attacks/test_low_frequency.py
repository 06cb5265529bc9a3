"""LF: its filters and distances in closed form, the bound held, images independent of each other."""

import pytest
import torch
from linear_problem import defended, problem

from bench.attacks.base import Trace
from bench.attacks.low_frequency import LowFrequency, colour_kernel, dssim, filtered, gaussian_logits, rms
from bench.threat import ThreatModel

THREAT = ThreatModel(epsilon=8 / 255)


def test_filters_are_normalised_and_start_near_the_identity() -> None:
    images = torch.rand(3, 2, 8, 8)
    for size in (3, 5, 7):
        logits = gaussian_logits(size, 0.2).view(1, -1, 1).expand(3, -1, 64)
        assert torch.allclose(filtered(images, logits, colour_kernel(images, size, 0.05)), images, atol=1e-4)
        flat = filtered(torch.full_like(images, 0.3), 0 * logits, colour_kernel(images, size, 0.05))
        assert torch.allclose(flat, torch.full_like(images, 0.3), atol=1e-6)


def test_colour_kernel_keeps_edges() -> None:
    """A blurring filter does not mix the two sides of an edge that is 20 colour deviations high."""
    images = torch.zeros(1, 1, 6, 6)
    images[..., 3:] = 1.0
    logits = torch.zeros(1, 9, 36)
    assert torch.allclose(filtered(images, logits, colour_kernel(images, 3, 0.05)), images, atol=1e-6)
    assert (filtered(images, logits, colour_kernel(images, 3, 1e3)) - images).abs().max() > 0.3


def test_dssim_of_known_pairs() -> None:
    """Equal images: 0. Constants a and b: (1 - (2ab + c1) / (a^2 + b^2 + c1)) / 2."""
    a, b = torch.full((2, 3, 12, 12), 0.5), torch.full((2, 3, 12, 12), 0.25)
    assert torch.allclose(dssim(a, a), torch.zeros(2), atol=1e-6)
    expected = (1 - (2 * 0.5 * 0.25 + 1e-4) / (0.25 + 0.0625 + 1e-4)) / 2
    assert torch.allclose(dssim(a, b), torch.full((2,), expected), atol=1e-4)
    assert torch.allclose(rms(a, b), torch.full((2,), 0.25), atol=1e-6)


@pytest.mark.parametrize("distance", ["dssim", "rms"])
def test_breaks_near_images_within_the_bound(distance: str) -> None:
    classifier, images, labels, ids = problem(60)
    model, trace = defended(classifier), Trace()
    attack = LowFrequency(steps=40, eot=1, distance=distance, bound=0.02, kernels=(3, 5))
    adversarial = attack.perturb(model, images, labels, ids, THREAT, 0, trace=trace)
    assert ({"dssim": dssim, "rms": rms}[distance](adversarial, images) < 0.02).all()
    THREAT.check(adversarial, images, restricted=attack.restricted)
    robust = model(adversarial, None).argmax(1) == labels
    assert robust.float().mean() < 0.8
    if distance == "rms":  # never below the exact radius: rms * sqrt(pixels) is the L2 norm
        assert robust[classifier.radius(images, "L2") > 0.02 * 4].all()
    assert len(trace.curve()) == 41


def test_batch_does_not_matter() -> None:
    classifier, images, labels, ids = problem(9)
    model = defended(classifier, 0.2)
    attack = LowFrequency(steps=4, eot=3, kernels=(3,))
    whole = attack.perturb(model, images, labels, ids, THREAT, 1)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], THREAT, 1) for r in (slice(0, 4), slice(4, 9))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"), [({"kernels": (4,)}, "odd"), ({"distance": "lpips"}, "dssim, rms"), ({"bound": 0}, "bound")]
)
def test_ranges(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowFrequency(**fields)
