"""Servers for tests: started by the scripts in tests/services; a test is skipped where they are not installed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVICES = Path(__file__).parent / "services"


@contextmanager
def served(name: str, folder: Path, *port: str) -> Iterator[dict[str, str]]:
    """Start a service; the variables that its script exports. The test is skipped where the script cannot start it."""
    script = str(SERVICES / f"{name}.sh")
    begun = subprocess.run([script, "start", str(folder), *port], capture_output=True, text=True)
    if begun.returncode in (69, 77):  # not installed, not allowed
        pytest.skip(f"{name}: {begun.stderr.strip()}")
    assert begun.returncode == 0, begun.stderr
    try:
        yield dict(re.findall(r"(\w+)=(\S+)", begun.stdout.splitlines()[-1]))
    finally:
        subprocess.run([script, "stop", str(folder), *port], capture_output=True)
