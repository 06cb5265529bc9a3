"""Diff-PGD: the recursion by hand for both gradients, the levels that are shown, and what it never asks."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks.base import NoSuchAttack
from bench.attacks.diff_pgd import DiffPGD
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.base import Defended, Purify
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise, role_seed
from defenses.undefended import Undefended

THREAT = ThreatModel(epsilon=0.05)
IDS = torch.tensor([5, 900, 0])


class Net(nn.Module):
    """A small smooth classifier in five classes."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.last = torch.randn(64, 16, generator=g) / 4, torch.randn(16, 5, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first) @ self.last


def bend(x: Tensor, label: Tensor) -> Tensor:
    """A network that predicts noise."""
    return 0.3 * torch.tanh(2 * x) + 1e-4 * label.view(-1, 1, 1, 1)


def setting(network: Any = bend) -> tuple[Defended, Tensor, Tensor]:
    model = DiffPureSDE(t=0.02, steps=2).defend(Net(), NetworkScore(network, (1, 8, 8)), gradient="exact")
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, images, model.classifier(images).argmax(1)


def edit(x: Tensor, noise: Noise, a: Tensor) -> Tensor:
    """SDEdit to index 59, then DDIM over 39 and 19 to the clean image, written out."""
    first = a[59]
    h = first.sqrt() * (2 * x - 1) + (1 - first).sqrt() * noise.normal(x, step=0)
    for index, following in ((59, 39), (39, 19), (19, None)):
        eps = bend(h, torch.full((len(x),), float(index)))
        x0 = (h - (1 - a[index]).sqrt() * eps) / a[index].sqrt()
        h = x0 if following is None else a[following].sqrt() * x0 + (1 - a[following]).sqrt() * eps
    return h / 2 + 0.5


@pytest.mark.parametrize("through", ["exact", "straight_through"])
def test_the_recursion_by_hand(through: Literal["exact", "straight_through"]) -> None:
    model, images, labels = setting()
    a = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0).float()
    x = images
    for step in range(3):
        part = x.clone().requires_grad_()
        shown = edit(part, Noise(role_seed(0, "selection"), IDS, step), a)
        at = part if through == "exact" else shown
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.classifier(shown), labels, reduction="sum"), at)
        x = (images + (x + 0.02 * gradient.sign() - images).clamp(-0.05, 0.05)).clamp(0, 1)
    wanted = THREAT.project(edit(x, Noise(role_seed(0, "diff_pgd: last"), IDS), a), images)
    given = (model, images, labels, IDS, THREAT, 0)
    settings: dict[str, Any] = {"steps": 3, "step_size": 0.02, "through": through, "start": "zero"}
    assert torch.allclose(DiffPGD(**settings, result="iterate").perturb(*given), x, rtol=0, atol=1e-6)
    found = DiffPGD(**settings).perturb(*given)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5) and not torch.allclose(found, x, atol=1e-3)
    THREAT.check(found, images)


def test_it_raises_the_loss_behind_sdedit_and_never_asks_the_defense() -> None:
    model, images, labels = setting()
    asked = 0

    def count(purify: Purify) -> Purify:
        def counted(x: Tensor, noise: Any) -> Tensor:
            nonlocal asked
            asked += 1
            return purify(x, noise)

        return counted

    attack = DiffPGD(result="iterate", step_size=0.01)
    found = attack.perturb(model.with_purify(count), images, labels, IDS, THREAT, 0)
    editor = attack._editor().defend(model.classifier, NetworkScore(bend, (1, 8, 8)))
    draws = [Noise(99, IDS, k) for k in range(20)]
    before, after = (sum(float(F.cross_entropy(editor(x, noise), labels)) for noise in draws) for x in (images, found))
    assert asked == 0 and after > before + 0.5 * len(draws)
    assert attack.queries() == (11, 0) and attack.looks() == 0


def test_a_defense_without_a_diffusion_is_refused() -> None:
    model, images, labels = setting()
    for bare in (Undefended().defend(model.classifier), Defended(lambda x, noise: x, model.classifier)):
        with pytest.raises(NoSuchAttack, match="has none that knows diffusion times. Use transfer"):
            DiffPGD().perturb(bare, images, labels, IDS, THREAT, 0)


def test_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match="Expected t in"):
        DiffPGD(t=0.0)
    with pytest.raises(ValueError, match="Expected denoising_steps > 0"):
        DiffPGD(denoising_steps=0)
    with pytest.raises(ValueError, match="levels to walk down, got 61"):
        DiffPGD(denoising_steps=61)
    with pytest.raises(ValueError, match="diff_pgd attacks in Linf, L2, got norm L1"):
        Cell(
            dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(), attack=DiffPGD(),
            threat=ThreatModel(norm="L1", epsilon=1.0),
        )  # fmt: skip
