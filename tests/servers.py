"""Servers for tests: started by the scripts in tests/services; a test is skipped where they are not installed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVICES = Path(__file__).parent / "services"


@contextmanager
def served(name: str, *port: str) -> Iterator[tuple[dict[str, str], Path]]:
    """Start a service: the variables that its script exports, and its folder, which every user may enter.

    The test is skipped where the script cannot start it.
    """
    script = str(SERVICES / f"{name}.sh")
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):  # daemons keep pipes open
            code = subprocess.run([script, "start", folder, *port], stdout=out, stderr=err).returncode
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().strip())
        if code in (69, 77):  # not installed, not allowed
            pytest.skip(f"{name}: {texts[1]}")
        assert code == 0, texts
        try:
            yield dict(re.findall(r"(\w+)=(\S+)", texts[0].splitlines()[-1])), Path(folder)
        finally:
            subprocess.run([script, "stop", folder, *port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
