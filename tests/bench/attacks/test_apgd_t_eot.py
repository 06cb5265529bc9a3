"""APGD-T+EOT: the targeted losses by hand, the targets, and the library's verdict on a bare classifier."""

from __future__ import annotations

import pytest
import torch
from linear_problem import defended, problem
from torch import nn

from bench.attacks._library import attack_by, library_attack
from bench.attacks.apgd_t_eot import APGDTEOT, likeliest_wrong
from bench.attacks.losses import targeted_dlr, targeted_margin
from bench.datasets import load_dataset
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.models.classifiers import load_classifier


def test_the_losses_by_hand() -> None:
    logits, labels, targets = torch.tensor([[3.0, 1.0, 0.0, -2.0, 2.0]]), torch.tensor([0]), torch.tensor([3])
    assert targeted_margin(logits, labels, targets).item() == -5
    assert targeted_dlr(logits, labels, targets).item() == pytest.approx(-5 / (3 - (1 + 0) / 2))
    with pytest.raises(ValueError, match="at least 4 classes"):
        targeted_dlr(logits[:, :3], labels, torch.tensor([1]))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_reaches_the_exact_radius(norm: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    model = defended(classifier)
    x = APGDTEOT(steps=10, eot=1, targets=1, loss="margin").perturb(model, images, labels, ids, threat, 0)
    threat.check(x, images)
    outside = classifier.radius(images, norm) > threat.epsilon
    assert torch.equal(model(x, None).argmax(1) == labels, outside)


def test_aims_at_the_likeliest_wrong_classes() -> None:
    class Order(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 5.0, 3.0, 4.0, 1.0]]).expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)

    model, images = Defended(lambda x, noise: x, Order()), torch.rand(2, 1, 4, 4)
    aims = likeliest_wrong(model, images, torch.tensor([1, 3]), torch.arange(2), 0, draws=20, classes=3)
    assert aims.tolist() == [[3, 2, 4], [1, 2, 4]]


def test_it_finds_what_the_librarys_finds() -> None:
    data, threat = load_dataset("digits"), ThreatModel(epsilon=1 / 8)
    images, labels, ids = data.images(range(40)), torch.as_tensor(data.labels[:40]), torch.arange(40)
    model = Defended(lambda x, noise: x, load_classifier("digits_cnn"))
    ours = APGDTEOT(steps=20, eot=1, targets=3).perturb(model, images, labels, ids, threat, 0)
    with library_attack("standard", model, images, threat, 0, None) as library:
        library.apgd_targeted.n_iter, library.apgd_targeted.n_target_classes = 20, 3
        theirs = attack_by(library, "apgd-t", images, labels)
    left = [(model(x).argmax(1) == labels).float().mean().item() for x in (ours, theirs)]
    assert 0.1 < left[1] < 0.9 and left[0] <= left[1] + 0.03, left
