"""Answers leave nothing behind: as many tensors are alive after many gradients as after a few."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from contract import cases, defended, smooth_answer, tiny_images, tiny_noise

from defenses.base import Defense

DIFFERENTIABLE = [defense for defense in cases() if "exact" in defense.gradients]


@pytest.fixture(autouse=True)
def _without_earlier_objects() -> Iterator[None]:
    """What earlier tests left behind is not counted: it may die while a defense answers."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def tensors_alive() -> int:
    """Tensors that a collection of garbage leaves, of those made since the test began."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def growth(defense: Defense, *, answers: int) -> int:
    """How many more tensors are alive after `answers` further gradients of the defense; three come before."""
    answer = smooth_answer(defense, defended(defense))

    def differentiate() -> None:
        images = tiny_images().requires_grad_()
        torch.autograd.grad(answer(images, tiny_noise()).sum(), images)

    for _ in range(3):
        differentiate()
    before = tensors_alive()
    for _ in range(answers):
        differentiate()
    return tensors_alive() - before


@pytest.mark.parametrize("defense", DIFFERENTIABLE, ids=lambda d: d.name)
def test_no_tensor_outlives_its_answer(defense: Defense) -> None:
    assert growth(defense, answers=6) == 0


@pytest.mark.slow
@pytest.mark.parametrize("defense", DIFFERENTIABLE, ids=lambda d: d.name)
def test_no_tensor_outlives_200_answers(defense: Defense) -> None:
    assert growth(defense, answers=200) == 0
