"""`import bench` is quick and light; its names are functions, whichever module was imported first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def in_a_process(program: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_bench_takes_no_time_and_no_torch() -> None:
    program = (
        "import sys, time; begin = time.perf_counter(); import bench; spent = time.perf_counter() - begin\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sqlalchemy', 'click', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert spent < 0.3, spent"
    )
    in_a_process(program)


def test_results_are_read_without_torch() -> None:
    rows = in_a_process(
        "import bench, sys; print(len(bench.results('results.sqlite'))); assert 'torch' not in sys.modules"
    )
    assert int(rows) > 0


FIRST = {
    "the attribute": "import bench; bench.evaluate; bench.run",
    "the function of the module": "from bench.evaluate import evaluate\nfrom bench.run.runner import run_cells",
    "the module": "import bench.evaluate, bench.run",
    "the name of the package": "from bench import evaluate, run",
}


@pytest.mark.parametrize("first", list(FIRST.values()), ids=list(FIRST))
def test_evaluate_and_run_are_modules_and_functions(first: str) -> None:
    in_a_process(
        first + "\nimport bench, sys\n"
        "from bench.evaluate import evaluate as judge\n"
        "from bench.run.runner import run_cells\n"
        "import bench.evaluate as module\n"
        "assert callable(bench.evaluate) and callable(bench.run) and callable(bench.results)\n"
        "assert bench.evaluate is module is sys.modules['bench.evaluate'] and module.evaluate is judge\n"
        "assert bench.run is sys.modules['bench.run'] and bench.run.runner.run_cells is run_cells\n"
        "try: bench.evaluate()\n"
        "except TypeError as error: assert 'model' in str(error), error\n"
        "try: bench.run('no_such_grid')\n"
        "except LookupError as error: assert 'no_such_grid' in str(error), error"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    import bench

    assert {"evaluate", "run", "results"} <= set(dir(bench))
    with pytest.raises(AttributeError, match="no_such_name"):
        bench.no_such_name  # noqa: B018


def test_robustbench_is_imported_after_bench() -> None:
    in_a_process(
        "import sys, bench\nassert 'torch' not in sys.modules\n"
        "from robustbench.utils import load_model\n"
        "import autoattack.state, pyautoattack.state\n"
        "assert autoattack.state is pyautoattack.state and autoattack.state.__spec__.name == 'pyautoattack.state'"
    )


def test_a_package_called_autoattack_wins_over_the_alias(tmp_path: Path) -> None:
    (tmp_path / "autoattack").mkdir()
    (tmp_path / "autoattack" / "__init__.py").write_text("name = 'real'")
    (tmp_path / "autoattack" / "state.py").write_text("name = 'real'")
    in_a_process(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport bench, autoattack, autoattack.state, pyautoattack\n"
        "assert autoattack.name == autoattack.state.name == 'real' and autoattack is not pyautoattack"
    )


def test_python_m_bench_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Usage: bench "), done.stderr


NOTEBOOK = """
import bench, sys
from dataclasses import dataclass, replace
from typing import ClassVar
from bench.attacks.pgd_eot import PGDEOT
from defenses import Purifier, register
del sys.modules["__main__"].__dict__["__file__"]  # as in a notebook

def define(factor):
    @register
    @dataclass(frozen=True, kw_only=True)
    class HalfTone(Purifier):
        source: ClassVar[str] = "this test"
        stochastic: ClassVar[bool] = False
        def build(self, *, classifier, score, gradient="exact"):
            return lambda images, noise: images * factor
    return HalfTone()

def measure(defense):
    attack = PGDEOT(steps=1, step_size=0.1, eot=1)
    result = bench.evaluate(
        "digits_cnn", "digits", defense=defense, attack=attack, epsilon=0.0, num_images=8, db="notebook.sqlite"
    )
    return result.row["run_id"], result.clean_accuracy

first, second = measure(define(1.0)), measure(define(0.0))
assert define(1.0).name == "half_tone"
assert first[0] != second[0] and second[1] < first[1], (first, second)
"""


def test_a_defense_of_a_notebook_is_measured_anew_when_it_changes(tmp_path: Path) -> None:
    program = tmp_path / "notebook.py"
    program.write_text(NOTEBOOK)
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_shell_completes_verbs_and_options() -> None:
    for words, found in (("bench ru", "plain,run"), ("bench run --num", "plain,--num-images")):
        asked = {"_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **asked}
        )
        assert found in done.stdout.splitlines(), done.stderr


def test_types_are_marked_as_part_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for package in ("bench", "defenses"):
        assert (ROOT / package / "py.typed").is_file()
        assert f'{package} = ["py.typed"' in project
