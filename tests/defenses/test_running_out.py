"""A CPU that has no memory left is backed off from like a GPU."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch
from linear_problem import problem
from torch import Tensor

from bench.attacks.base import Oracle, Trace
from defenses.base import Defended
from defenses.memory import is_out_of_memory

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("could not create a memory object"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


def test_what_this_torch_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError(errno.ENOENT, "No such file"))


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("gradient", [True, False])
def test_half_the_rows_are_asked_about_and_the_numbers_stay(error: Exception, gradient: bool) -> None:
    linear, x, labels, ids = problem(8)
    sizes: list[int] = []

    def purify(images: Tensor, noise: Any) -> Tensor:
        sizes.append(len(images))
        if len(images) > 6:
            raise error
        return images

    def ask(model: Defended, trace: Trace) -> Any:
        oracle = Oracle(model, labels, ids, 0, eot=2, trace=trace)
        return (oracle.gradient if gradient else oracle.evaluate)(x, 0)

    trace = Trace()
    found = ask(Defended(purify, linear), trace)
    whole = ask(Defended(lambda images, noise: images, linear), Trace())
    assert sizes[:3] == [16, 8, 4] and trace.notes == [
        "out of memory: 8 rows a pass instead of 16", "out of memory: 4 rows a pass instead of 8",
    ]  # fmt: skip
    assert torch.allclose(found.loss, whole.loss) and torch.equal(found.predictions, whole.predictions)
    assert found.gradient is None or torch.allclose(found.gradient, whole.gradient)


def test_a_single_row_that_does_not_fit_is_the_error() -> None:
    linear, x, labels, ids = problem(2)

    def purify(images: Tensor, noise: Any) -> Tensor:
        raise MemoryError("no room for one")

    with pytest.raises(MemoryError, match="no room for one"):
        Oracle(Defended(purify, linear), labels, ids, 0).evaluate(x, 0)
