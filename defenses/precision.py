"""The arithmetic of float32 networks: the judge's, and what an attack may use in its place.

A robust accuracy is an upper bound whatever the attack computes with, as long as the judge answers in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TF32_SINCE = 8  # major compute capability of the first GPUs that have it


def check_name(name: str) -> None:
    """Raise ValueError for a name that is no precision of an attack."""
    if name not in PRECISIONS:
        raise ValueError(f"Expected attack_precision among {', '.join(PRECISIONS)}, got {name!r}.")


def check_device(precision: Precision, device: torch.device) -> None:
    """Raise ValueError where a device would compute in another precision than its name says."""
    if precision != "tf32":
        return
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= TF32_SINCE and not torch.version.hip:
        return
    raise ValueError(
        f"Expected a GPU with TF32 (NVIDIA Ampere or newer) for attack_precision='tf32', found {device}, which would "
        "compute in float32 under that name. Use float32 or bfloat16."
    )


@contextmanager
def arithmetic(precision: Precision = "float32") -> Iterator[None]:
    """While it lasts, float32 matrix products and convolutions are float32's, or TF32's where that is asked for.

    The switches are the process's, so that the threads of a backward pass follow. The one place that sets them.

    Args:
        precision: "tf32" allows TF32; "bfloat16" says nothing here, it is the score network's own (see
            `defenses.models.low_precision`), and all else stays float32.
    """
    restore = _remember()
    _allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        restore()


def _remember() -> Callable[[], None]:
    """A function that sets the switches as they are now."""
    backends: Any = torch.backends
    try:
        products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:  # set one by one, which torch's older names cannot tell
        switches = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
        values = [switch.fp32_precision for switch in switches]

        def restore() -> None:
            for switch, value in zip(switches, values, strict=True):
                switch.fp32_precision = value

        return restore

    def restore_both() -> None:
        torch.set_float32_matmul_precision(products)
        backends.cudnn.allow_tf32 = convolutions

    return restore_both


def _allow_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def stay_in_float32() -> None:
    """Forbid TF32 in this process from now on, for commands that ask a defense outside of a cell's run."""
    _allow_tf32(False)
