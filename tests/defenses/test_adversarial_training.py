"""Adversarially trained classifiers stand in for the cell's."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from defenses.adversarial_training import AdversarialTraining
from defenses.models import classifiers
from defenses.models.classifiers import ClassifierInfo, register_classifier
from defenses.noise import Noise


@pytest.fixture
def robust() -> Iterator[nn.Module]:
    """A robust classifier of two classes, registered as `test_robust`."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def find() -> object:
        raise AssertionError("the weights are not looked for")

    register_classifier(
        ClassifierInfo(
            name="test_robust", datasets=("toy",), load=lambda: network, find=find, source="nowhere",
            licence="MIT", clean_accuracy=12.5, accuracy_source="Table 1",
        )  # type: ignore[arg-type]
    )  # fmt: skip
    yield network
    del classifiers.CLASSIFIERS["test_robust"]


@pytest.mark.parametrize("gradient", ["exact", "straight_through", "transfer"])
def test_answers_and_gradient_are_the_robust_networks(robust: nn.Module, gradient: str) -> None:
    given = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    model = AdversarialTraining(model="test_robust").defend(given, gradient=gradient)
    images = torch.rand(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = model(images, Noise(0, torch.arange(3)))
    assert torch.equal(logits, robust(images)) and logits.dtype == torch.float64
    (found,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert torch.allclose(found, robust[1].weight[0].expand(3, -1).reshape(images.shape))


def test_info_without_loading(robust: nn.Module) -> None:
    info = AdversarialTraining(model="test_robust").info
    assert (info.licence, info.clean_accuracy, info.accuracy_source) == ("MIT", 12.5, "Table 1")
    zoo = AdversarialTraining(model="robustbench:cifar10:Linf:Carmon2019Unlabeled").info
    assert zoo.datasets == ("cifar10",) and "RobustBench" in zoo.source


def test_unknown_names_answer_with_the_nearest(robust: nn.Module) -> None:
    with pytest.raises(LookupError, match="Did you mean 'test_robust'"):
        AdversarialTraining(model="test_robus").defend(robust)
    with pytest.raises(ValueError, match="no 'surrogate' gradient"):
        AdversarialTraining(model="test_robust").defend(robust, gradient="surrogate")
