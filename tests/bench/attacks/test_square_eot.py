"""Square attack: the paper's shapes, the exact radius, and a search that does not depend on the batch."""

import pytest
import torch
from linear_problem import TwoClasses, defended, problem

from bench.attacks.base import Trace
from bench.attacks.square_eot import SquareEOT, Squares, pyramid, pyramids
from bench.threat import ThreatModel
from defenses.compat import import_autoattack
from defenses.noise import Noise


@pytest.mark.parametrize("side", [1, 3, 4, 7, 12])
def test_blobs_are_the_librarys(side: int) -> None:
    import_autoattack()
    from autoattack.square import SquareAttack

    library = SquareAttack(None, norm="L2", eps=1.0, device="cpu")
    assert torch.allclose(pyramid(side, side + 3), library.eta_rectangles(side, side + 3), atol=1e-6)
    theirs = library.eta(side)
    assert min((pyramids(side) - other).abs().max() for other in (theirs, theirs.T)) < 1e-6


def test_shapes_have_their_norms_and_places() -> None:
    images = torch.zeros(300, 3, 11, 8)
    squares = Squares(Noise(1, torch.arange(300)), 4, images)
    window = squares.window(3, 0)
    assert (window.sum((1, 2, 3)) == 9).all() and window.any(0).all()  # all pixels are within reach
    assert torch.allclose((squares.blob(3) * window).flatten(1).norm(dim=1), torch.ones(300), atol=1e-5)
    start = squares.tiles()
    assert torch.allclose(start.flatten(1).norm(dim=1), torch.ones(300), atol=1e-5)
    moved = squares.moved(0.4 * start, 5, 0.5)
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.full((300,), 0.5), atol=1e-5)
    here, there = squares.window(5, 0), squares.window(5, 1)
    assert not (moved * (there & ~here)).any() and (moved * here).flatten(1).any(1).all()


def test_schedule_is_stretched() -> None:
    attack = SquareEOT(steps=1000)
    assert [attack.share(q) for q in (0, 1, 2, 6, 999)] == [0.8, 0.8, 0.4, 0.2, 0.8 / 512]


def check_radius(classifier: TwoClasses, images: torch.Tensor, norm: str, epsilon: float, steps: int) -> None:
    threat = ThreatModel(norm=norm, epsilon=epsilon, gradient="none")
    model, labels = defended(classifier, gradient="none"), (classifier.value(images) > 0).long()
    attack = SquareEOT(steps=steps, eot=1)
    adversarial = attack.perturb(model, images, labels, torch.arange(len(images)), threat, seed=0)
    threat.check(adversarial, images)
    outside = classifier.radius(images, norm) > epsilon
    robust = model(adversarial, None).argmax(1) == labels
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert robust.float().mean() - outside.float().mean() <= 0.01


def test_reaches_the_exact_radius_linf() -> None:
    classifier, images, _, _ = problem()
    check_radius(classifier, images, "Linf", 0.03, 200)


def test_reaches_the_exact_radius_l2() -> None:
    """The steepest direction is one blob, which L2 squares can take; no white noise is within their reach."""
    w = torch.zeros(1, 6, 6)
    w[0, 2:5, 1:4] = pyramids(3)
    images = 0.5 + 0.08 * torch.randn(100, 1, 6, 6, generator=torch.Generator().manual_seed(0)).clamp(-2.5, 2.5)
    check_radius(TwoClasses(w, -0.5 * float(w.sum())), images, "L2", 0.05, 400)


def test_gaussian_purifier() -> None:
    """On fixed draws a linear margin is compared exactly, so noise does not stop the search."""
    classifier, images, labels, ids = problem(60)
    model = defended(classifier, 0.1, "none")
    attack = SquareEOT(steps=300, eot=3)
    adversarial = attack.perturb(model, images, labels, ids, ThreatModel(epsilon=0.03), seed=0)
    left = classifier.value(images).abs() - 0.03 * classifier.w.abs().sum()
    signed = classifier.value(adversarial) * (2 * labels - 1)
    chance = torch.distributions.Normal(0, 0.1 * classifier.w.norm()).cdf
    assert (chance(signed).mean() - chance(left).mean()).abs() < 0.01 and (signed >= left - 1e-5).all()


@pytest.mark.parametrize("eot", [1, 3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_batch_does_not_matter(norm: str, eot: int) -> None:
    classifier, images, labels, ids = problem(12)
    model, threat = defended(classifier, 0.1), ThreatModel(norm=norm, epsilon=0.05)
    attack, trace = SquareEOT(steps=30, eot=eot), Trace()
    whole = attack.perturb(model, images, labels, ids, threat, 5, trace=trace)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert set(trace.looks.values()) == {1}  # the same draw at every step
    seen = {point["images"] for point in trace.curve()}
    assert seen == {12} if eot > 1 else min(seen) < 12  # a broken image leaves a deterministic defense's batch


@pytest.mark.parametrize(("fields", "message"), [({"steps": 0}, "steps > 0"), ({"p": 1.5}, r"p in \(0, 1\]")])
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SquareEOT(**fields)
