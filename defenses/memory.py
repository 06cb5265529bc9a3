"""What running out of memory looks like, on a GPU, on a CPU and in Python; what is free, and what was taken."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import torch

SAID = (
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "bad_alloc",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # a handle for which there was no room
    "CUDNN_STATUS_NOT_INITIALIZED",
    "Unable to find a valid cuDNN algorithm",  # none fits into what is left
    "unable to find an engine to execute this computation",
    "could not create a memory object",  # oneDNN
)
"""What torch and the libraries below it say in a RuntimeError of no class of its own. The last five have other causes
too; a smaller pass then fails as well, and the error is told."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch may work."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)


def free_bytes(device: torch.device) -> int:
    """Free bytes on a GPU, those that torch holds and does not use included."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


_HIGHEST: dict[torch.device, int] = {}


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that something takes on a GPU at its highest, above what is taken before."""
    _HIGHEST[device] = highest_bytes(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return int(torch.cuda.max_memory_allocated(device)) - before


def highest_bytes(device: torch.device) -> int:
    """Most bytes that torch took on a GPU since `forget_highest`."""
    return max(_HIGHEST.get(device, 0), int(torch.cuda.max_memory_allocated(device)))


def forget_highest(device: torch.device) -> None:
    """Begin to watch the highest anew; on a CPU nothing can."""
    if device.type != "cuda":
        return
    _HIGHEST.pop(device, None)
    torch.cuda.reset_peak_memory_stats(device)


def taken_and_whole(device: torch.device) -> tuple[int | None, int | None]:
    """Most bytes taken, and bytes of the device; None where the system does not say.

    On a GPU since `forget_highest`, on a CPU by the process since it began.
    """
    if device.type == "cuda":
        return highest_bytes(device), int(torch.cuda.get_device_properties(device).total_memory)
    try:
        import resource

        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return taken, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ImportError, OSError, ValueError, AttributeError):
        return None, None
