"""scan: the gradient is that of plain autograd, in memory that does not grow with the steps."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from defenses.diffusion.scan import scan

W = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3


def step(state: tuple[Tensor, ...], k: int) -> tuple[Tensor, ...]:
    x, memory = state
    return torch.tanh(x @ W) + 0.1 * memory, memory * 0.9 + x * (k + 1) / 10


def gradient(checkpoint_every: int | None, steps: int = 13) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    out, memory = scan(step, (x, torch.zeros_like(x)), steps, checkpoint_every=checkpoint_every)
    (out.square().sum() + memory.sum()).backward()
    return out.detach(), x.grad


@pytest.mark.parametrize("checkpoint_every", [None, 1, 4, 100])
def test_value_and_gradient_equal_plain_autograd(checkpoint_every: int | None) -> None:
    (value, grad), (plain_value, plain_grad) = gradient(checkpoint_every), gradient(0)
    assert torch.equal(value, plain_value)
    assert torch.allclose(grad, plain_grad, rtol=1e-12, atol=0)


def test_gradient_equals_finite_differences() -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return scan(step, (x, torch.zeros_like(x)), 5, checkpoint_every=2)[0]

    assert torch.autograd.gradcheck(f, x)


def test_graph_does_not_grow_with_steps() -> None:
    """Tensors that live during the backward pass: one segment's, whatever the number of steps."""

    def peak(steps: int) -> int:
        alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        most = 0

        def watched(state: tuple[Tensor, ...], k: int) -> tuple[Tensor, ...]:
            nonlocal most
            (x,) = state
            inner = [x]
            for _ in range(5):
                inner.append(torch.tanh(inner[-1]))
                alive.add(inner[-1])
            most = max(most, len(alive))
            return (inner[-1],)

        x = torch.randn(3, requires_grad=True)
        scan(watched, (x,), steps, checkpoint_every=1)[0].sum().backward()
        gc.collect()
        return most

    assert peak(40) - peak(10) <= 30  # the 30 more stored states, one a step; 5 a step without checkpoints


def test_no_graph_without_gradients() -> None:
    x = torch.randn(2, 6, dtype=torch.float64)
    out, _ = scan(step, (x, torch.zeros_like(x)), 3)
    assert not out.requires_grad


def test_negative_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint_every >= 0"):
        scan(step, (torch.zeros(1, 6),), 3, checkpoint_every=-1)
