"""What running out of memory looks like, on a GPU, on a CPU and in Python."""

from __future__ import annotations

import errno

import torch

SAID = (
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)
"""What torch and the libraries below it say in a RuntimeError of no class of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch may work."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)
