"""A stranger's walk: every program of docs/adding-*.md runs as it stands, copied into an empty folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.attacks import attacks
from bench.cli import main
from defenses import defenses

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROGRAMS = {
    found[1]: found[0]
    for page in sorted(DOCS.glob("adding-*.md"))
    for found in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page.read_text(), flags=re.DOTALL)
}
CELLS = {"my_blur.py": 2, "my_diffusion.py": 3, "my_fgsm.py": 2, "my_grid.py": 5, "my_table.py": 6}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the user works. What a program registers is no part of the package."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for program in PROGRAMS:
        for registry in (defenses, attacks):
            registry._classes.pop(Path(program).stem, None)


def test_every_program_of_the_pages_is_tried() -> None:
    assert set(PROGRAMS) == set(CELLS)


@pytest.mark.parametrize("program", list(CELLS))
def test_a_program_runs_as_the_page_says(program: str, empty_folder: Path) -> None:
    (empty_folder / program).write_text(PROGRAMS[program])
    ran = CliRunner().invoke(main, ["run", "--grid", program, "--num-images", "2", "--device", "cpu"])
    assert ran.exit_code == 0 and f"{CELLS[program]} done" in ran.output, ran.output
    report = CliRunner().invoke(main, ["report", "--grid", program, "--num-images", "2", "--format", "markdown"])
    assert report.exit_code == 0 and "Robust" in report.output, report.output
