"""Shared fixtures: where the development data lies, and one thread a test so that the suite is repeatable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """The folder with real images and golden numbers: $BENCH_SHARED, else `shared` beside the checkout."""
    return Path(os.environ.get("BENCH_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"development data not found at {folder}; set BENCH_SHARED to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
