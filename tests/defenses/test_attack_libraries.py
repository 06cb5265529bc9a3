"""Attack libraries of others take a defended classifier for a model: `model(x)` draws its noise afresh."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from defenses import Defended
from defenses.compat import import_autoattack
from defenses.gaussian_noise import GaussianNoise
from defenses.models.classifiers import load_classifier

EPSILON = 3 / 16
NONE = "not installed; docs/python.md says how to attack a defense with it"


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    from bench.datasets import load_dataset

    data = load_dataset("digits")
    return data.images(range(8)), torch.as_tensor(data.labels[:8])


@pytest.fixture
def model() -> Defended:
    return GaussianNoise(sigma=0.1).defend(load_classifier("digits_cnn")).eval()


def check(model: nn.Module, adversarial: Tensor, images: Tensor, labels: Tensor) -> None:
    """The attack stays in its ball and finds something: the defended classifier is wrong more often."""
    assert adversarial.shape == images.shape
    assert float((adversarial - images).abs().max()) <= EPSILON + 1e-5
    with torch.no_grad():
        before, after = (model(x).argmax(1) == labels for x in (images, adversarial))
    assert after.sum() < before.sum()


def test_each_call_draws_afresh_whatever_torchs_seed(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    images, _ = digits
    torch.manual_seed(3)
    first, second = model(images), model(images)
    torch.manual_seed(3)  # as attack libraries do between their restarts
    assert not torch.equal(first, second) and not torch.equal(first, model(images))


def test_images_of_one_batch_get_different_noise(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    images, _ = digits
    answers = model(images[:1].repeat(2, 1, 1, 1))
    assert not torch.equal(answers[0], answers[1])


def test_autoattack(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    attack = import_autoattack().AutoAttack(
        model, norm="Linf", eps=EPSILON, version="custom", attacks=["apgd-ce"], device="cpu"
    )
    attack.apgd.n_iter = 5
    check(model, attack.run_standard_evaluation(images, labels, batch_size=8)[0], images, labels)


def test_foolbox(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", reason=f"foolbox is {NONE}")
    images, labels = digits
    attack = foolbox.attacks.LinfPGD(steps=10)
    _, adversarial, _ = attack(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilons=EPSILON
    )
    check(model, adversarial, images, labels)


def test_torchattacks(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason=f"torchattacks is {NONE}")
    images, labels = digits
    check(model, torchattacks.PGD(model, eps=EPSILON, alpha=EPSILON / 4, steps=10)(images, labels), images, labels)


def test_adversarial_robustness_toolbox(model: Defended, digits: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("art", reason=f"adversarial-robustness-toolbox is {NONE}")
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    images, labels = digits
    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescent(wrapped, eps=EPSILON, eps_step=EPSILON / 4, max_iter=10, verbose=False)
    check(model, torch.from_numpy(attack.generate(images.numpy(), labels.numpy())), images, labels)
