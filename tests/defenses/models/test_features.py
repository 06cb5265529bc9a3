"""Activations by layer name: every architecture of ours names its layers, and no hook stays behind."""

import pytest
import torch
from torch import Tensor, nn

from defenses.models.features import FAMILIES, feature_layers, features
from defenses.models.networks.cifar_resnet import CifarResNet
from defenses.models.networks.normalized import Normalized
from defenses.models.networks.small_cnn import SmallCNN


@pytest.mark.parametrize(
    ("classifier", "image", "shapes"),
    [
        (SmallCNN(width=4), (1, 8, 8), [(4, 8, 8), (8, 4, 4), (8, 4, 4)]),
        (Normalized(CifarResNet(8)), (3, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    ],
)
def test_our_classifiers_name_their_layers(classifier: nn.Module, image: tuple, shapes: list) -> None:
    assert [tuple(f.shape) for f in features(classifier.eval(), torch.rand(2, *image))] == [(2, *s) for s in shapes]


def test_torchvisions_resnets_are_known() -> None:
    from torchvision.models import resnet18

    network = Normalized(resnet18())
    assert feature_layers(network) == tuple(f"network.{name}" for name in FAMILIES[0])
    found = features(network.eval(), torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in found] == [64, 128, 256, 512]


def test_activations_are_what_the_layers_returned_and_carry_a_graph() -> None:
    network, images = SmallCNN(width=4).eval(), torch.rand(2, 1, 8, 8, requires_grad=True)
    last = features(network, images)[-1]
    assert torch.equal(last, network.features(2 * images - 1)) and last.requires_grad


class Broken(nn.Module):
    feature_layers = ("inner",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        raise RuntimeError("no answer")


def test_no_hook_stays_behind_even_after_an_error() -> None:
    network, broken = SmallCNN(width=4), Broken()
    features(network, torch.rand(1, 1, 8, 8))
    with pytest.raises(RuntimeError, match="no answer"):
        features(broken, torch.rand(1, 1, 8, 8))
    assert not any(m._forward_hooks for model in (network, broken) for m in model.modules())


def test_an_unknown_architecture_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match="got Linear. Give it an attribute feature_layers"):
        features(nn.Linear(2, 2), torch.rand(1, 2))
