"""Where the workers of `bench run` run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.launching import absolute_grid


def test_workers_find_a_grid_file_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute_grid("quickstart") == "quickstart"
    assert [absolute_grid(name) for name in ("my.py", "my.toml")] == [str(tmp_path / n) for n in ("my.py", "my.toml")]
    assert absolute_grid("~/my.toml") == str(tmp_path / "home" / "my.toml")
