"""`Defended`: every kind of gradient, runs and how they combine, batch-coupled purifiers one draw at a time."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from defenses.base import GRADIENTS, Defended, Gradient, Purifier, Purify, combine_runs
from defenses.noise import Noise

WEIGHT = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]], dtype=torch.float64)
NOISE = Noise(0, torch.arange(3))


class Linear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ WEIGHT.T.to(x)


def scale(factor: float) -> Purify:
    """images -> factor images + noise; its Jacobian is `factor`."""
    return lambda images, noise: factor * images + noise.normal(images, step=0)


@dataclass(frozen=True, kw_only=True)
class Scale(Purifier):
    """A purifier whose gradients are known."""

    name: ClassVar[str] = "scale"
    source: ClassVar[str] = "this test"
    stochastic: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "surrogate")

    factor: float = 3.0

    def build(self, **given: object) -> Purify:
        return scale(self.factor)

    def surrogate(self) -> "Scale":
        return Scale(factor=0.5)


def images() -> Tensor:
    return torch.rand(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        ("exact", 3.0, 3.0),
        ("straight_through", 3.0, 1.0),
        ("surrogate", 0.5, 0.5),  # the value, too, is the surrogate's where gradients are recorded
    ],
)
def test_value_and_gradient_of_each_kind(kind: Gradient, value: float, slope: float) -> None:
    model, x = Scale().defend(Linear(), gradient=kind), images()
    logits = model(x, NOISE)
    assert torch.allclose(logits, Linear()(scale(value)(x, NOISE)))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert torch.allclose(gradient, slope * WEIGHT[0].expand(3, -1).reshape(x.shape))
    with torch.no_grad():
        assert torch.allclose(model(x, NOISE), Linear()(scale(3.0)(x, NOISE)))


def test_transfer_is_the_bare_classifier_and_none_has_no_graph() -> None:
    x = images()
    transfer, none = (Scale().defend(Linear(), gradient=kind) for kind in ("transfer", "none"))
    assert torch.equal(transfer(x, NOISE), Linear()(x))
    assert torch.equal(transfer(x.detach(), NOISE), none(x, NOISE))
    assert not none(x, NOISE).requires_grad and not none.purify(x, NOISE).requires_grad


@pytest.mark.parametrize("kind", GRADIENTS)
def test_without_gradients_every_kind_is_the_real_defense(kind: Gradient) -> None:
    model = Defended(scale(3.0), Linear(), gradient=kind, surrogate=scale(0.5))
    x = images().detach()
    assert torch.equal(model(x, NOISE), Linear()(scale(3.0)(x, NOISE)))
    assert torch.equal(model.purify(x, NOISE), scale(3.0)(x, NOISE))


@pytest.mark.parametrize("combine", ["logits", "softmax", "vote"])
def test_runs_use_draws_of_their_own(combine: str) -> None:
    model = Scale(runs=4, combine=combine).defend(Linear())  # type: ignore[arg-type]
    x = images()
    each = torch.stack([Linear()(scale(3.0)(x, Noise(0, torch.arange(3), draws=run))) for run in range(4)])
    assert len(each.unique()) == each.numel()
    assert torch.allclose(model(x, NOISE), combine_runs(each, combine))  # type: ignore[arg-type]
    second = model(x, Noise(0, torch.arange(3), draws=1))  # draws 4..7: no answer shares a purification
    assert (second != model(x, NOISE)).any()


def test_combinations_in_closed_form() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 9.0]]]).double()
    assert torch.equal(combine_runs(logits, "logits"), logits.mean(0))
    assert torch.allclose(combine_runs(logits, "softmax").exp(), logits.softmax(-1).mean(0))
    assert torch.allclose(combine_runs(logits, "vote").exp(), torch.tensor([[0.5, 0.25, 0.25]]).double())
    tie = torch.tensor([[[0.0, 5.0]], [[1.0, 0.0]]])
    assert combine_runs(tie, "vote").argmax(-1).item() == 0  # the smallest label


def test_gradient_of_a_vote_is_that_of_the_mean_softmax() -> None:
    logits = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    grads = [torch.autograd.grad(combine_runs(logits, kind)[:, 1].sum(), logits)[0] for kind in ("vote", "softmax")]
    assert torch.equal(*grads)


def centred(images: Tensor, noise: Noise) -> Tensor:
    """Batch-coupled: subtracts the batch's mean and adds noise shared by the batch."""
    return images - images.mean(0) + noise.shared(images.shape[1:], step=0, dtype=images.dtype)


def test_batch_coupled_purifiers_see_each_draw_as_a_batch() -> None:
    model = Defended(centred, Linear(), batch_coupled=True)
    x, noise = images(), Noise(0, torch.arange(3))
    copies = x.repeat(2, 1, 1, 1)
    together = model(copies, noise.repeat(2))
    apart = torch.cat([model(x, Noise(0, torch.arange(3), draws=draw)) for draw in (0, 1)])
    assert torch.allclose(together, apart)
    found = torch.autograd.grad(together.square().sum(), x)[0]
    assert torch.allclose(found, torch.autograd.grad(apart.square().sum(), x)[0])
    order = torch.tensor([3, 0, 4, 1, 5, 2])  # rows of the draws need not lie together
    assert torch.allclose(model(copies[order], noise.repeat(2)[order]), together[order])
    runs = Defended(centred, Linear(), batch_coupled=True, runs=2)
    assert torch.allclose(runs(x, noise), apart.unflatten(0, (2, 3)).mean(0))


def test_another_kind_of_gradient() -> None:
    model, x = Scale().defend(Linear()), images()
    bpda = model.with_gradient("straight_through")
    assert bpda.classifier is model.classifier and model.gradient == "exact"
    (gradient,) = torch.autograd.grad(bpda(x, NOISE)[:, 0].sum(), x)
    assert torch.allclose(gradient, WEIGHT[0].expand(3, -1).reshape(x.shape))
    assert bpda.with_gradient("exact").gradient == "exact"
    cheap = model.with_gradient("surrogate")
    assert cheap.gradient == "surrogate" and torch.equal(
        cheap(x, NOISE), Scale().defend(Linear(), gradient="surrogate")(x, NOISE)
    )
    with pytest.raises(ValueError, match="Expected a gradient kind among exact, straight_through, .*, got 'adjoint'"):
        model.with_gradient("adjoint")


def test_another_purifier() -> None:
    model, x = Scale().defend(Linear()), images()
    doubled = model.with_purify(lambda purify: lambda images, noise: 2 * purify(images, noise))
    assert doubled.classifier is model.classifier and torch.equal(model(x, NOISE), Linear()(scale(3.0)(x, NOISE)))
    assert torch.equal(doubled.purify(x, NOISE), 2 * model.purify(x, NOISE))
    for kind in ("straight_through", "exact"):
        other = doubled.with_gradient(kind)  # type: ignore[arg-type]
        assert torch.allclose(other.purify(x, NOISE), doubled.purify(x, NOISE))
    rebuilt = model.with_gradient("surrogate").with_purify(lambda purify: lambda images, noise: images)
    assert torch.equal(rebuilt.with_gradient("exact").purify(x, NOISE), x)


def test_a_module_as_purifier_can_be_replaced_on_a_copy() -> None:
    class Identity(nn.Module):
        def forward(self, images: Tensor, noise: Noise) -> Tensor:
            return images

    model, x = Defended(Identity(), Linear()), images()
    half = model.with_purify(lambda purify: lambda images, noise: purify(images, noise) / 2)
    assert torch.equal(half.purify(x, NOISE), x / 2) and torch.equal(model.purify(x, NOISE), x)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Scale has no 'adjoint' gradient. It has: exact, surrogate, straight_through"):
        Scale().defend(Linear(), gradient="adjoint")
    with pytest.raises(ValueError, match="Expected a gradient kind among exact, .*, got 'exakt'"):
        Scale().defend(Linear(), gradient="exakt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected runs >= 1, got 0"):
        Scale(runs=0)
    with pytest.raises(ValueError, match="Expected combine among logits, softmax, vote, got 'mean'"):
        Scale(combine="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Scale has no surrogate"):
        Purifier.surrogate(Scale())


def test_recorded_noise_cannot_tell_runs_of_a_batch_apart() -> None:
    model = Defended(centred, Linear(), runs=2, batch_coupled=True)
    with pytest.raises(ValueError, match="tell the 2 runs of a batch apart.*Set runs=1"), torch.no_grad():
        model(images(), object())  # type: ignore[arg-type]
