"""The diffusion classifier: golden logits and weights, the Gaussian closed form, RDC, the shipped network."""

import pytest
import torch
from golden import RecordedNoise, load
from torch import Tensor, nn
from toy_denoisers import column, edm_toy

from bench.datasets import load_dataset
from defenses.diffusion.schedule import VPSchedule
from defenses.diffusion_classifier import DiffusionClassifier
from defenses.models.conditional import ClassConditional, ConditionalScore
from defenses.models.scores import load_score
from defenses.models.weights import asset_record
from defenses.noise import Noise

G, META = load("diffusion_classifier")
LEVELS = META["meta"]["levels"]
TOY = DiffusionClassifier(levels=LEVELS)


def conditional_toy() -> ConditionalScore:
    """D(x, s, y) = D(x, s) + shift_y s / (1 + s), a shift for each channel."""
    plain = edm_toy(G).network

    def network(x_t: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        if classes is None:
            return plain(x_t, label)
        t = label / 999
        s = column(VPSchedule().sigma(t) / VPSchedule().alpha_bar(t).sqrt())
        return plain(x_t, label) - G["class_shift"][classes][:, :, None, None] / (1 + s)

    return ConditionalScore(network, (3, 8, 8), classes=10)


def test_golden_levels_and_weights() -> None:
    sigmas, weights = zip(*TOY.weighted_levels(), strict=True)
    assert sigmas == pytest.approx(G["sigma"].tolist(), rel=1e-9)
    assert weights == pytest.approx(G["weights"].tolist(), rel=1e-9)
    _, lognormal = zip(*DiffusionClassifier(levels=LEVELS, weighting="lognormal").weighted_levels(), strict=True)
    assert lognormal == pytest.approx(G["weights_with_lognormal_density"].tolist(), rel=1e-9)


def recorded() -> RecordedNoise:
    return RecordedNoise({(2, k): n.expand_as(G["x01"]) for k, n in enumerate(G["noise"])})


def test_golden_logits() -> None:
    model = TOY.defend(nn.Identity(), conditional_toy())
    assert (model(G["x01"], recorded()) - G["logits"]).abs().max() < META["arrays"]["logits"]["tolerance"]


@pytest.mark.parametrize("steps", [0, 2])
def test_exact_gradient_equals_finite_differences(steps: int) -> None:
    defense = DiffusionClassifier(levels=3, maximization_steps=steps)
    model, noise = defense.defend(nn.Identity(), conditional_toy()), Noise(0, torch.arange(3))
    x, direction, h = G["x01"].clone().requires_grad_(), torch.randn_like(G["x01"]), 1e-7
    readout = torch.randn(3, 10, dtype=torch.float64)
    (model(x, noise) * readout).sum().backward()
    ends = [(model(G["x01"] + s * h * direction, noise) * readout).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (x.grad * direction).sum()) < 1e-5 * abs(numeric)


def test_rdc_is_the_classifier_after_likelihood_maximization() -> None:
    """Straight-through: the value of RDC, the gradient of the logits at the purified image."""
    rdc, plain, noise = (
        DiffusionClassifier(levels=3, maximization_steps=2),
        DiffusionClassifier(levels=3),
        Noise(0, torch.arange(3)),
    )
    model = rdc.defend(nn.Identity(), conditional_toy(), gradient="straight_through")
    purified = model.purify(G["x01"], noise)
    assert (purified - G["x01"]).abs().max() > 0.01
    x, inner = G["x01"].clone().requires_grad_(), purified.clone().requires_grad_()
    logits, expected = model(x, noise), plain.defend(nn.Identity(), conditional_toy())(inner, noise)
    assert torch.allclose(logits, expected, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out[:, 3].sum(), v)[0] for out, v in ((logits, x), (expected, inner)))
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_gaussian_classes_are_told_apart_as_well_as_can_be() -> None:
    """Classes N(+-m, s^2) with their exact denoisers: the sign of the pixel decides, as the posterior says."""
    means, std = torch.tensor([-0.4, 0.4], dtype=torch.float64), 0.3

    def network(x_t: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        assert classes is not None
        t = column(label / 999)
        a, sigma = VPSchedule().alpha_bar(t), VPSchedule().sigma(t)
        return sigma * (x_t - a.sqrt() * column(means[classes])) / (a * std**2 + sigma**2)

    images = torch.linspace(0.05, 0.95, 10, dtype=torch.float64).view(-1, 1, 1, 1)
    defense = DiffusionClassifier(classes=2, levels=40)
    model = defense.defend(nn.Identity(), ConditionalScore(network, (1, 1, 1), classes=2))
    draws = [model(images, Noise(seed, torch.arange(10))) for seed in range(50)]
    margin = torch.stack(draws).mean(0).diff(dim=1).squeeze(1)  # linear in the pixel, through 0 at 1/2
    assert torch.equal(margin > 0, images.flatten() > 0.5)
    assert margin[-1].item() == pytest.approx(-margin[0].item(), rel=0.2)


def test_networks_that_take_no_or_other_classes_are_refused() -> None:
    assert isinstance(conditional_toy(), ClassConditional)
    for score, found in ((edm_toy(G), "one that takes none"), (conditional_toy(), "10")):
        with pytest.raises(ValueError, match=f"conditional on 7 classes, got {found}"):
            DiffusionClassifier(classes=7).defend(nn.Identity(), score)


def test_ranges_are_named() -> None:
    for fields, message in (({"levels": 0}, "levels >= 1"), ({"weighting": "flat"}, "weighting among")):
        with pytest.raises(ValueError, match=message):
            DiffusionClassifier(**fields)


def test_the_shipped_network_tells_digits_apart() -> None:
    """Within what 60 images allow of the accuracy that the training record states; told no class, a `ScoreModel`."""
    data, score = load_dataset("digits"), load_score("digits_conditional")
    recorded = asset_record("digits_conditional")["files"]["digits_conditional.safetensors"]
    images, labels = data.images(range(60)), data.labels[:60]
    model = DiffusionClassifier(levels=25).defend(nn.Identity(), score, gradient="none")
    with torch.no_grad():
        answers = model(images, Noise(0, torch.arange(60))).argmax(1)
        assert score.epsilon(images, torch.full((60,), 0.1)).shape == images.shape
    assert (answers == labels).sum() >= 54 and recorded["diffusion_classifier_accuracy"] > 95
