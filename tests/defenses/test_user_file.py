"""Files of the user's: loaded once, whoever asks; several classes in one; their code counts as the user's own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.attacks import attacks
from bench.run.provenance import hash_own_code
from defenses import defenses
from defenses.user_error import UserFileError
from defenses.user_file import load_file

TWO = """
from dataclasses import dataclass
from typing import ClassVar
from bench.attacks import register as register_attack
from bench.attacks.clean import Clean
from defenses import Purifier, register

class Shift(Purifier):
    source: ClassVar[str] = "this test"
    stochastic: ClassVar[bool] = False
    amount: float = 0.1

    def build(self, *, classifier, score, gradient="exact"):
        return lambda images, noise: images + self.amount

@register
@dataclass(frozen=True, kw_only=True)
class First(Shift):
    amount: float = 0.1

@register("second_of_file")
@dataclass(frozen=True, kw_only=True)
class Second(Shift):
    amount: float = 0.2

@register_attack("attack_of_file")
@dataclass(frozen=True, kw_only=True)
class Nothing(Clean):
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "two_mine.py"
    path.write_text(TWO)
    yield path
    for registry in (defenses, attacks):
        for name in ("two_mine", "second_of_file", "attack_of_file"):
            if name in registry:
                del registry[name]


def test_one_file_holds_several_classes(file: Path) -> None:
    module = load_file(file)
    assert defenses["two_mine"] is module.First and defenses["second_of_file"] is module.Second
    assert attacks["attack_of_file"] is module.Nothing and module.Nothing.name == "attack_of_file"
    assert defenses.make("second_of_file").title == "second of file"
    assert list(hash_own_code(module.Second(), module.Nothing())) == ["two_mine.py"]
    file.write_text(TWO.replace("class First", "class Another"))  # a notebook's user goes on
    assert load_file(file).Another is defenses["two_mine"] is not module.First


def test_a_file_is_loaded_once_whoever_asks(file: Path) -> None:
    """By path, by import from a file beside it, and by import before that."""
    other = file.with_name("imports_two_mine.py")
    other.write_text("import runs_once_mine\nfrom two_mine import First\n")
    file.with_name("runs_once_mine.py").write_text("import sys\nsys.runs_once = getattr(sys, 'runs_once', 0) + 1\n")
    first = load_file(file).First
    assert load_file(other).First is first and importlib.import_module("two_mine").First is first
    load_file(file.with_name("runs_once_mine.py"))
    assert sys.runs_once == 1  # type: ignore[attr-defined]


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """Each file imports what lies beside itself."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tools_mine.py").write_text(f"WHERE = {folder!r}\n")
        (tmp_path / folder / f"uses_{folder}.py").write_text("from tools_mine import WHERE\n")
    for folder in ("a", "b"):
        assert load_file(tmp_path / folder / f"uses_{folder}.py").WHERE == folder


def test_a_file_that_breaks_off_leaves_no_names(file: Path) -> None:
    file.write_text(TWO + "\nraise RuntimeError('late')\n")
    with pytest.raises(UserFileError, match=r"two_mine.py, line \d+: RuntimeError: late"):
        load_file(file)
    assert "two_mine" not in defenses and "attack_of_file" not in attacks
    with pytest.raises(LookupError, match=r"There is no file my_none.py in /.*Give the path"):
        load_file(Path("my_none.py"))


def test_two_classes_of_one_name_in_a_file_are_refused(file: Path) -> None:
    file.write_text(TWO.replace('@register("second_of_file")', "@register"))
    with pytest.raises(UserFileError, match=r"First and Second\. Both are called 'two_mine': give one another name"):
        load_file(file)


def test_the_code_of_an_installed_package_is_covered_and_that_of_others_is_not(tmp_path: Path) -> None:
    """A package's modules, and the second module of its distribution; not what lies beside it in the same folder."""
    package = tmp_path / "pkg_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("from pkg_mine.tools import f\nimport helper_mine, stranger\nfrom . import more\n")
    for name in ("pkg_mine/tools.py", "pkg_mine/more.py", "helper_mine.py", "stranger.py"):
        (tmp_path / name).write_text("f = 1\n")
    info = tmp_path / "pkg_mine-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("pkg_mine/__init__.py,,\npkg_mine/deep.py,,\nhelper_mine.py,,\n")
    from defenses.own_code import own_files

    found = {path.relative_to(tmp_path).as_posix() for path in own_files(package / "deep.py")}
    assert found == {"pkg_mine/" + name + ".py" for name in ("deep", "tools", "more", "__init__")} | {"helper_mine.py"}


def test_an_object_in_a_field_is_refused_when_the_defense_is_made(file: Path) -> None:
    with pytest.raises(ValueError, match="in the field amount of First, found a builtin_function_or_method"):
        load_file(file).First(amount=print)


def test_what_a_file_was_the_first_to_import_stays_when_the_file_breaks_off(tmp_path: Path) -> None:
    """In a process of its own: nobody has imported the defense before."""
    (tmp_path / "mine.py").write_text("from defenses.median_blur import MedianBlur\nraise ValueError('no')\n")
    program = """
import sys
from pathlib import Path
from defenses.user_error import UserFileError
from defenses.user_file import load_file
try:
    load_file(Path(sys.argv[1]))
except UserFileError:
    from defenses import defenses
    assert "defenses.median_blur" in sys.modules and "median_blur" in defenses
    sys.exit(7)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "mine.py")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 7
