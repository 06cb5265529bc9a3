"""Shared fixtures: where the development data lies, and one thread a test so that the suite is repeatable."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from defenses import user_file
from defenses.watching import forget

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
os.environ.pop("COLUMNS", None)  # tables of the tests are as wide as in a pipe
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a script: Ctrl-C is tested too
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(autouse=True)
def _forget_files() -> Iterator[None]:
    """What a file of a test registers is gone after it: other tests walk the registries."""
    before = set(user_file._LOADED)
    yield
    for path in set(user_file._LOADED) - before:
        loaded = user_file._LOADED.pop(path)
        forget(loaded.registered, loaded.module.__name__)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """24 pictures of several sizes and kinds, some in a folder of their class, some not."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "photographs"
    (folder / "dogs").mkdir(parents=True)
    for k in range(24):
        pixels = np.random.default_rng(k).integers(0, 256, (20 + k, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).convert("L" if k % 3 == 0 else "RGB")
        picture.save(folder / ("dogs" if k % 2 else ".") / f"{k:02}{('.png', '.JPEG')[k % 2]}")
    (folder / "notes.txt").write_text("not a picture")
    return folder
