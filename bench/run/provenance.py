"""Where a number came from: code, packages, machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from defenses import own_code
from defenses.own_code import SOURCES

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
    """Hash the user's own code behind the classes of instances such as a defense and an attack.

    Returns:
        As `defenses.own_code.hash_own_code`: path of a file -> the first 12 hex digits of its sha256.
    """
    return own_code.hash_own_code(*map(type, things))


def own_code_in(packages: Mapping[str, str]) -> dict[str, str]:
    """The entries of `hash_own_code` among the packages of a stored run."""
    return {name: digest for name, digest in packages.items() if name.endswith(".py")}


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
