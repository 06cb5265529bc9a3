"""Compiled networks answer as the eager ones do; what they cannot do is done eagerly, and said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import cases, tiny_classifier, tiny_images, tiny_noise, tiny_score
from torch import Tensor, nn

from defenses.attacked import AttackedDefense
from defenses.base import Defense, Gradient
from defenses.models.compiled import (
    SIZES,
    CompiledNetwork,
    Compiling,
    compile_classifier,
    compile_score,
    compiled_networks,
    cut,
)
from defenses.models.energy import EnergyScore
from defenses.models.features import features
from defenses.models.low_precision import in_bfloat16


class Net(nn.Module):
    """Smooth, with a label for each row."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(3, 3, 3, 3, generator=g) / 5, requires_grad=False)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x, self.first, padding=1)) * label.view(-1, 1, 1, 1)


def given(rows: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 3, 5, 5, generator=g), torch.rand(rows, generator=g) + 0.5


def slope(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x, label).square().sum(), x)[0]


class Counting:
    """A backend that counts what it compiles, and may spoil it."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda out: out) -> None:
        self.compiled, self.spoil = 0, spoil

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.compiled += 1

        def run(*values: Any) -> Any:
            return [self.spoil(out) for out in graph.forward(*values)]

        return run


def compiled(backend: Any = "aot_eager", **fields: Any) -> CompiledNetwork:
    torch._dynamo.reset()
    return CompiledNetwork(Net(), "the network", Compiling(backend, **fields))


@pytest.mark.parametrize("rows", [*range(1, 70), 255, 256, 257, 900])
@pytest.mark.parametrize("largest", SIZES)
def test_parts_have_few_sizes_and_waste_less_than_half(rows: int, largest: int) -> None:
    parts = list(cut(rows, largest))
    assert [place for part, _ in parts for place in range(rows)[part]] == list(range(rows))
    assert {size for _, size in parts} <= {size for size in SIZES if size <= largest}
    assert all(part.stop - part.start <= size for part, size in parts) and sum(size for _, size in parts) < 2 * rows


def test_answers_and_gradients_are_the_eager_ones() -> None:
    network, eager = compiled(), Net()
    for rows in (1, 3, 6, 16):
        x, label = given(rows)
        assert torch.allclose(network(x, label), eager(x, label), atol=1e-6)
        assert torch.allclose(slope(network, x, label), slope(eager, x, label), atol=1e-5)
    assert network.used and network.failed is None and "aot_eager" in (network.note() or "")


def test_nothing_is_compiled_again() -> None:
    told: list[str] = []
    backend = Counting()
    network = compiled(backend, tell=told.append)
    for _ in range(2):
        for rows in range(1, 40):
            x, label = given(rows)
            network(x.permute(0, 1, 3, 2), label)  # another memory format
            slope(network, x, label)
        first = backend.compiled
    assert first == backend.compiled <= 2 * len(SIZES) and network.failed is None
    assert told and all(text.startswith("compiling the network, ") for text in told) and len(told) == len(set(told))


def test_a_derivative_of_a_gradient_is_eager_and_exact() -> None:
    """What AOTAutograd's kernels refuse: guidance differentiates a gradient."""
    x, label = given(5)

    def twice(network: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(network(leaf, label).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad((first**3).sum() + network(leaf, label).sum(), leaf)[0]

    network = compiled()
    assert torch.allclose(twice(network), twice(Net()), atol=1e-5) and network.failed is None


def test_what_does_not_compile_runs_eagerly_and_says_so_once() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    told: list[str] = []
    network = compiled(broken, tell=told.append)
    x, label = given(4)
    for _ in range(2):
        assert torch.equal(network(x, label), Net()(x, label))
        assert torch.equal(slope(network, x, label), slope(Net(), x, label))
    assert "no compiler here" in (network.note() or "") and sum("failed" in text for text in told) == 1


@pytest.mark.parametrize("spoil", [lambda out: out * 1.01, lambda out: out * torch.nan, lambda out: out.flip(0)])
def test_kernels_that_answer_otherwise_are_not_used(spoil: Callable[[Tensor], Tensor]) -> None:
    """A gradient that is wrong is a weak attack."""
    network = compiled(Counting(spoil))
    x, label = given(4)
    assert torch.equal(slope(network, x, label), slope(Net(), x, label))
    assert "differs from the eager one" in (network.note() or "") and not network.used


def test_a_wrong_gradient_is_not_used() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, out: Tensor) -> Tensor:
            return out.view_as(out)

        @staticmethod
        def backward(ctx: Any, along: Tensor) -> Tensor:
            return along * 0.9

    network = compiled(Counting(Wrong.apply))
    x, label = given(4)
    assert torch.equal(slope(network, x, label), slope(Net(), x, label))
    assert "compiled gradient differs" in (network.failed or "")


def test_a_lack_of_memory_is_the_asker_s_business_and_makes_parts_smaller() -> None:
    def full(out: Tensor) -> Tensor:
        if len(out) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return out

    network = compiled(Counting(full))
    x, label = given(16)
    with pytest.raises(torch.OutOfMemoryError):
        network(x, label)
    assert torch.allclose(network(x, label), Net()(x, label), atol=1e-6) and network.failed is None


def test_layers_that_are_listened_to_are_eager() -> None:
    torch._dynamo.reset()
    classifier = tiny_classifier(torch.float32)
    fast = compile_classifier(classifier, Compiling("eager"))
    x = tiny_images(torch.float32).requires_grad_()
    for ours, wanted in zip(features(fast, x), features(classifier, x), strict=True):
        assert torch.equal(ours, wanted)
    assert [network.used for network in compiled_networks(fast)] == [False]


def test_the_original_is_left_alone_and_tensors_are_shared() -> None:
    original = Net()
    network = CompiledNetwork(original, "the network", Compiling("eager"))
    heard: list[int] = []
    original.register_forward_hook(lambda *_: heard.append(1))
    network(*given(2))
    assert not heard and network.network.first is original.first and set(vars(original)) == set(vars(Net()))


def test_an_energy_s_score_and_other_classes_stay_eager() -> None:
    energy = EnergyScore(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), (1, 2, 2))
    assert compile_score(energy, Compiling("eager")) is energy
    assert not compiled_networks(energy, object(), None)


def test_a_score_in_bfloat16_is_compiled_too() -> None:
    torch._dynamo.reset()
    low = in_bfloat16(tiny_score())
    fast = compile_score(low, Compiling("aot_eager"), near=0.1)
    x, t = tiny_images(torch.float32), torch.full((3,), 0.1)
    assert torch.allclose(fast.epsilon(x, t), low.epsilon(x, t), atol=1e-2)
    (network,) = compiled_networks(fast)
    assert network.used and network is not low.network


FAST = Compiling("eager")


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, Any]:
    torch._dynamo.reset()
    return compile_classifier(tiny_classifier(torch.float32), FAST), compile_score(tiny_score(), FAST)


@pytest.mark.parametrize("defense", [d for d in cases() if d.needs_score], ids=lambda defense: defense.name)
def test_every_defense_has_its_gradient(defense: Defense, networks: tuple[nn.Module, Any]) -> None:
    kind: Gradient = "exact" if "exact" in defense.gradients else "straight_through"
    try:
        real = defense.defend(tiny_classifier(torch.float32), tiny_score(), gradient=kind)
        low = defense.defend(*networks, gradient=kind)
    except LookupError as missing:
        pytest.skip(str(missing))
    except ValueError:
        pytest.skip("it needs a score network of another kind")
    model = AttackedDefense(real, low, "float32")
    assert not model.as_judged

    def gradient(asked: nn.Module) -> Tensor:
        x = tiny_images(torch.float32).requires_grad_()
        return torch.autograd.grad(asked(x, tiny_noise())[:, 0].sum(), x)[0]

    with torch.no_grad():
        assert torch.equal(
            model(tiny_images(torch.float32), tiny_noise()), real(tiny_images(torch.float32), tiny_noise())
        )
    a, b = gradient(model).flatten(), gradient(real).flatten()
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999 or float(b.norm()) == 0
    assert all(network.failed is None for network in compiled_networks(*networks))
