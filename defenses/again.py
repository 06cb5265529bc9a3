"""Graphs that are forgotten and built again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def again_in_backward(ask: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
    """`ask(x, *more)` without its graph, which the backward pass builds again, for one part of a batch at a time."""
    found: Tensor = _Again.apply(ask, x, *more)
    return found


def again_with_graph(ask: Callable[..., Tensor], x: Tensor, more: tuple[Any, ...], along: Tensor) -> Tensor:
    """The gradient of `ask(x, *more)` along a direction, in a backward pass; with a graph where that is asked for.

    Args:
        ask: builds the graph.
        x: tensor that is differentiated by.
        more: other arguments.
        along: of the shape of the answer.
    """
    twice = torch.is_grad_enabled()  # somebody differentiates this gradient
    with torch.enable_grad():
        leaf = x.view_as(x) if twice and x.requires_grad else x.detach().requires_grad_()
        (found,) = torch.autograd.grad(ask(leaf, *more), leaf, along, create_graph=twice)
    return found


class _Again(torch.autograd.Function):
    """Forgets a graph and builds it again; its own backward pass can be differentiated."""

    @staticmethod
    def forward(ctx: Any, ask: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
        with torch.enable_grad():  # as where it is recorded: a defense may answer otherwise without
            out = ask(x.detach().requires_grad_(), *more)
        ctx.ask, ctx.more = ask, more
        ctx.save_for_backward(x)
        if not out.requires_grad:
            ctx.mark_non_differentiable(found := out.detach())
            return found
        return out.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return (None, again_with_graph(ctx.ask, x, ctx.more, gradient), *[None] * len(ctx.more))
