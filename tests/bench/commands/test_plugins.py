"""Plug-ins: files by --plugin or BENCH_PLUGIN, and installed packages by entry points, here with real dist-info."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from bench.plugins import load_plugin
from defenses import defenses

ROOT = Path(__file__).parents[3]
DEFENSE = '''
from dataclasses import dataclass
from typing import ClassVar
from defenses import Purifier, register

@register("{name}")
@dataclass(frozen=True, kw_only=True)
class Mine(Purifier):
    """A plug-in's defense."""
    source: ClassVar[str] = "this test"
    stochastic: ClassVar[bool] = False

    def build(self, *, classifier, score, gradient="exact"):
        return lambda images, noise: images
'''


def bench(*arguments: object, **variables: str) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=variables)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BENCH_PLUGIN", "")  # what a command sets for its children goes with the test
    path = tmp_path / "random.py"  # like a module of Python's
    path.write_text(DEFENSE.format(name="plugged_mine"))
    yield path
    if "plugged_mine" in defenses:
        del defenses["plugged_mine"]


@pytest.mark.parametrize("place", ["before the verb", "behind the verb", "variable"])
def test_a_plugin_file_is_known_to_list_and_audit(place: str, file: Path) -> None:
    before, behind = (["--plugin", file], []) if place == "before the verb" else ([], ["--plugin", file])
    behind, variables = ([], {"BENCH_PLUGIN": str(file)}) if place == "variable" else (behind, {"BENCH_PLUGIN": ""})
    listed = bench(*before, "list", *behind, "defenses", **variables)
    assert listed.exit_code == 0 and "plugged_mine " in listed.output and "contrastive " in listed.output
    shown = bench(*before, "list", *behind, "defenses", "plugged_mine", **variables)
    assert "A plug-in's defense." in shown.output
    audited = bench(*before, "audit", *behind, "plugged_mine", "--images", 1, **variables)
    assert audited.exit_code == 0 and "Verdict: confirmed" in audited.output


def test_workers_get_the_plugins_too(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench("--plugin", file.name, "list", "defenses").exit_code == 0
    assert os.environ["BENCH_PLUGIN"] == str(file)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty_mine.py", tmp_path / "broken_mine.py"
    empty.write_text("class Mine:\n    pass\n")
    broken.write_text("import nothing_like_this\n")
    for path, said in (
        (empty, "empty_mine.py registers nothing. Write @register above the class"),
        (broken, "broken_mine.py, line 1: ModuleNotFoundError: No module named 'nothing_like_this'"),
        (tmp_path / "none_mine.py", "There is no file"),
    ):
        result = bench("--plugin", path, "list", "defenses")
        assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_a_plugin_from_python(file: Path) -> None:
    assert load_plugin(file) == ["defense plugged_mine"] == load_plugin(str(file))


PACKAGES = {
    "good-mine": (
        {"good_mine/__init__.py": "", "good_mine/blur.py": DEFENSE.format(name="entry_mine")}
        | {"good_mine/grid.py": '"""A grid of a package."""\ndef cells():\n    return []\n'}
        | {"good_mine/plain.py": DEFENSE.format(name="x").replace('@register("x")\n', "")},
        {
            "defenses": ["whatever = good_mine.blur", "named_by_entry = good_mine.plain:Mine"],
            "grids": ["grid_of_package = good_mine.grid"],
        },
    ),
    "broken-mine": ({"broken_mine.py": "import nothing_like_this\n"}, {"defenses": ["broken_one = broken_mine"]}),
    "exits-mine": ({"exits_mine.py": "raise SystemExit(0)\n"}, {"defenses": ["exits_one = exits_mine"]}),
    "thief-mine": (
        {"thief_mine.py": DEFENSE.format(name="jpeg")},
        {"defenses": ["jpeg = thief_mine"], "attacks": ["no_attack = thief_mine"]},
    ),
    "silent-mine": ({"silent_mine.py": "x = 1\n"}, {"defenses": ["silent_one = silent_mine"]}),
}
"""Distribution -> (files, group -> entry points)."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install --target` fills it."""
    folder = tmp_path_factory.mktemp("target")
    for name, (files, groups) in PACKAGES.items():
        info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        points = [f"[purification_bench.{group}]\n" + "\n".join(lines) for group, lines in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(points) + "\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file, text in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: plug-ins join a registry once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder)


def test_packages_join_and_a_broken_one_is_one_sentence(installed: Path) -> None:
    done = run(installed, "-m", "bench", "list", "defenses")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"entry_mine", "named_by_entry", "contrastive", "jpeg"} <= set(names) and len(names) == len(set(names))
    said = done.stderr.splitlines()
    assert len(said) == 4 and all(line.endswith("all else works without it.") for line in said), done.stderr
    assert "'broken_one' (purification_bench.defenses, of the package broken-mine 1.5)" in done.stderr
    assert "SystemExit: 0" in done.stderr and "'jpeg', which ships with this package" in done.stderr
    assert "Expected silent_mine to register a defense, found none" in done.stderr


def test_grids_of_packages_and_the_code_behind_their_defenses(installed: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from bench.grids import load_grid, grid_names\n"
        "from bench.run.provenance import hash_own_code\n"
        "from defenses import defenses\n"
        "print(load_grid('grid_of_package').about, 'grid_of_package' in grid_names())\n"
        "print(*hash_own_code(defenses.make('entry_mine')))\n"
    )
    done = run(installed, "-c", code)
    assert done.stdout.splitlines() == ["A grid of a package. True", "blur.py"], done.stderr
