"""docs/your-own.md: every program has at most twenty lines, and together they run as the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench
from bench.attacks import attacks
from bench.cli import main
from bench.datasets import DATASETS
from defenses import defenses
from defenses.models.classifiers import CLASSIFIERS
from defenses.models.scores import SCORES

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "your-own.md").read_text()
FILES = {
    found[1]: found[0] for found in re.findall(r"```(?:python|toml)\n(# (my_\w+\.\w+)\n.*?)```", PAGE, flags=re.DOTALL)
}
NAMES = (
    (defenses, "my_smooth"), (attacks, "my_sign"), (DATASETS, "my_digits"), (CLASSIFIERS, "my_network"),
    (SCORES, "my_score"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_PLUGIN", "")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for registry, name in NAMES:
        if name in registry:
            del registry[name]  # type: ignore[attr-defined]


def test_each_part_has_a_program_of_at_most_twenty_lines() -> None:
    programs = [name for name in FILES if name.endswith(".py")]
    assert len(programs) == 5
    for name in programs:
        lines = [line for line in FILES[name].splitlines()[1:] if line.strip()]
        assert len(lines) <= 20, name


def test_they_run_together_and_twice_is_nothing_to_do(folder: Path) -> None:
    ran = CliRunner().invoke(main, ["run", "--config", "my_sweep.toml", "--device", "cpu"])
    assert ran.exit_code == 0 and "12 done" in ran.output, ran.output
    again = CliRunner().invoke(main, ["run", "--grid", "my_sweep.toml", "--device", "cpu"])
    assert again.exit_code == 0 and "Nothing to do: all 12 cells are done" in again.output
    report = CliRunner().invoke(main, ["report", "--grid", "my_sweep.toml", "--format", "latex"])
    assert report.exit_code == 0 and "my smooth" in report.output


def test_the_same_from_python(folder: Path) -> None:
    for name in FILES:
        if name.endswith(".py"):
            assert len(bench.load_plugin(name)) == 1
    found = bench.evaluate(
        "my_network", "my_digits", defense="my_smooth", attack="my_sign", epsilon=1 / 16, num_images=8, device="cpu"
    )
    assert found.clean_accuracy > 50 and found.row["defense"] == "my_smooth"
    rows = bench.run("my_sweep.toml", db="own.sqlite", num_images=2, device="cpu", progress=False)
    assert len(rows.done) == 12 and not rows.errors


def test_list_shows_each_of_them(folder: Path) -> None:
    for kind, file, name in (
        ("defenses", "my_smooth.py", "my_smooth"), ("attacks", "my_sign.py", "my_sign"),
        ("datasets", "my_data.py", "my_digits"), ("classifiers", "my_classifier.py", "my_network"),
        ("scores", "my_score.py", "my_score"),
    ):  # fmt: skip
        shown = CliRunner().invoke(main, ["list", kind, "--plugin", file])
        assert shown.exit_code == 0 and re.search(rf"^{name}\b", shown.output, flags=re.MULTILINE), shown.output
