"""Where a number came from: code, packages, machine."""

from __future__ import annotations

import hashlib
import inspect
import platform
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "robustbench",
    "pyautoattack",
    "diffusers",
    "torchsde",
    "scikit-image",
)
SOURCES = Path(__file__).resolve().parents[2]


@lru_cache
def hash_sources() -> str:
    """Hash the Python files of both packages, installed or checked out: the first 12 hex digits of their sha256."""
    digest = hashlib.sha256()
    for package in ("bench", "defenses"):
        for path in sorted((SOURCES / package).rglob("*.py")):
            digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(SOURCES), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@lru_cache
def find_commit() -> tuple[str | None, bool | None]:
    """Find the git commit of the code.

    Returns:
        The commit's hash, and whether files of the packages differ from it. Both are None for an installed copy, and
        what git does not tell is None.
    """
    if _git("ls-files", "--error-unmatch", "bench/run/provenance.py") is None:
        return None, None
    changed = _git("status", "--porcelain", "--", "bench", "defenses")
    return _git("rev-parse", "HEAD"), None if changed is None else bool(changed)


def hash_own_code(*things: object) -> dict[str, str]:
    """Hash the files outside both packages that define the class of a thing, such as a user's defense or attack.

    Returns:
        The name of the file -> the first 12 hex digits of its sha256.
    """
    found = {}
    for thing in things:
        with suppress(OSError, TypeError):  # a class of no file
            path = Path(inspect.getfile(type(thing))).resolve()
            if not path.is_relative_to(SOURCES / "bench") and not path.is_relative_to(SOURCES / "defenses"):
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def list_packages() -> dict[str, str]:
    """List the versions of the packages that compute the numbers; this project's own carries its sources' hash."""
    found = {
        "python": platform.python_version(),
        "purification-bench": f"{_find_version('purification-bench')}+{hash_sources()}",
    }
    return found | {name: _find_version(name) for name in PACKAGES}


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def name_device(device: torch.device) -> str:
    """Name the device in words: the GPU's name, or the CPU's architecture and thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def describe_origin(device: torch.device) -> dict[str, Any]:
    """Fill the columns of the table `runs` that say which code ran where."""
    commit_hash, dirty = find_commit()
    return {
        "commit_hash": commit_hash,
        "dirty": dirty,
        "packages": list_packages(),
        "device": name_device(device),
        "precision": str(torch.get_default_dtype()).removeprefix("torch."),
    }
