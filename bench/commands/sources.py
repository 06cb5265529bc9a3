"""The hash of the sources that generated files are made from: a file with another hash is stale."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "defenses/*.py",
    "defenses/diffusion/purifier.py",
    "defenses/models/*.py",
    "bench/attacks/*.py",
    "bench/grids/*.py",
)
MORE = ("bench/datasets/*.py", "defenses/models/assets/digits/record.json")


def sources_hash() -> str:
    """Of every file that the catalogue is made from."""
    digest = hashlib.sha256()
    for pattern in (*SOURCES, *MORE):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
