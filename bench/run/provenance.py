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
def source_hash() -> str:
    """First 12 hex digits of the sha256 over the Python files of both packages: the code, installed or checked out."""
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
def commit() -> tuple[str | None, bool | None]:
    """(commit hash, whether the packages' files differ from it); (None, None) for an installed copy."""
    if _git("ls-files", "--error-unmatch", "bench/run/provenance.py") is None:
        return None, None
    changed = _git("status", "--porcelain", "--", "bench", "defenses")
    return _git("rev-parse", "HEAD"), bool(changed)


def own_code(*things: object) -> dict[str, str]:
    """File name -> first 12 hex digits of its sha256: the files outside both packages that define what things are."""
    found = {}
    for thing in things:
        with suppress(OSError, TypeError):  # a class of no file
            path = Path(inspect.getfile(type(thing))).resolve()
            if not path.is_relative_to(SOURCES / "bench") and not path.is_relative_to(SOURCES / "defenses"):
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def packages() -> dict[str, str]:
    """Versions of what computes the numbers; this project's own carries the hash of its sources."""
    found = {
        "python": platform.python_version(),
        "purification-bench": f"{_version('purification-bench')}+{source_hash()}",
    }
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the CPU's architecture and thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def provenance(device: torch.device) -> dict[str, Any]:
    """Columns of table `runs` that say which code ran where."""
    commit_hash, dirty = commit()
    return {
        "commit_hash": commit_hash,
        "dirty": dirty,
        "packages": packages(),
        "device": device_name(device),
        "precision": str(torch.get_default_dtype()).removeprefix("torch."),
    }
