"""What is shown while a run goes: names, images, steps, and a time left that is right within a factor of two."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.attacks.autoattack_standard import AutoAttackStandard
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.run.display import Lines, Showing, make_watcher, name_cells
from bench.run.progress import Progress, count_steps
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended


def cell(t: float = 0.1, gradient: Any = "exact", **changes: Any) -> Cell:
    given: dict[str, Any] = {
        "dataset": "digits", "classifier": "digits_cnn", "score": "digits_score",
        "defense": DiffPureSDE(t=t, steps=10), "attack": PGDEOT(steps=20, eot=4),
        "threat": ThreatModel(epsilon=3 / 16, gradient=gradient), "num_images": 128, "batch_size": 64,
    }  # fmt: skip
    return Cell(**(given | changes))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("gradient", ["exact", "straight_through", "surrogate"])
@pytest.mark.parametrize("dear", [2.5, 4.0, 6.0])
def test_the_first_estimate_is_within_a_factor_of_two(gradient: str, dear: float) -> None:
    """Where a gradient costs less or more than was thought, and loading the networks takes a while."""
    clock, cells = Clock(), [cell(gradient=gradient), cell(0.05, gradient)]
    progress = Progress(cells, lambda cell: None, clock)
    answer = 64 * 0.01 * {"exact": dear, "straight_through": 1.0, "surrogate": dear / 2}[gradient]  # seconds
    estimates: list[tuple[float, float]] = []
    for number, one in enumerate(cells):
        progress.begin(number, one)
        clock.now += 20.0 if not number else 0.0  # the networks
        for batch in (1, 2):
            for _ in range(20):
                clock.now += 4 * answer
                progress.take_step("pgd_eot")
                _, left = progress.left()
                if left is not None:
                    estimates.append((clock.now, left))
            clock.now += 64 * 0.01 * (3 * 10 + 20)
            progress.finish_images(64 * batch)
        progress.end()
    for at, left in (estimates[0], estimates[len(estimates) // 2]):
        assert 0.5 < left / (clock.now - at) < 2.0
    assert estimates[0][0] < 0.25 * clock.now + 20


def test_a_run_whose_other_networks_are_unknown_says_what_is_left_of_the_cell() -> None:
    clock, cells = Clock(), [cell(defense=Undefended(), score=None), cell()]
    progress = Progress(cells, lambda cell: True, clock)
    progress.begin(0, cells[0])
    for _ in range(15):
        clock.now += 1.0
        progress.take_step("pgd_eot")
    of_cell, of_run = progress.left()
    assert of_cell is not None and of_run is None


def test_steps() -> None:
    assert [count_steps(PGDEOT(steps=20)), count_steps(PGDEOT(steps=20, restarts=2))] == [20, 42]
    assert count_steps(Gold(steps=10, apgd_steps=5)) and count_steps(AutoAttackStandard()) is None


def test_cells_of_one_defense_are_named_by_what_differs() -> None:
    cells = [cell(0.1), cell(0.05), cell(0.05, seed=1), cell(0.05, num_images=64)]
    names = list(name_cells(cells).values())
    assert len(set(names)) == 4 and "t=0.1" in names[0] and "t=0.05" in names[1]
    assert "seed=1" in names[2] and "num_images=64" in names[3]


def shown(tmp_path: Path, **options: Any) -> str:
    one = cell()
    out = io.StringIO()
    with make_watcher(Console(file=out, width=200), [one], Showing(**options)) as watcher:
        watcher.begin_cell(0, 1, one)
        watcher._said = -1e9
        for step in range(3):
            watcher.show_step("pgd_eot", step)
        watcher._said = -1e9
        watcher.show_images(64, 128)
        watcher.end_cell(one, "failed", "ValueError: two\nlines \x1b[31m")
    return out.getvalue()


def test_lines_of_a_pipe_have_their_time_and_count_images_and_steps(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    lines = shown(tmp_path, log=log, verbose=True).splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[1/1\] digits digits_cnn diffpure_sde pgd_eot \(Linf 0.1875 exact\): "
    assert all(re.match(stamp, line) for line in lines) and len(lines) == 3
    assert "0 of 128 images, pgd_eot step 1 of 20" in lines[0] and "64 of 128 images" in lines[1]
    assert r"failed: ValueError: two lines \x1b[31m" in lines[2]
    logged = log.read_text(encoding="utf-8").splitlines()
    assert logged[1:] == lines and logged[0].endswith("begins")


def test_a_terminal_shows_them_in_a_bar() -> None:
    one = cell()
    out = io.StringIO()
    with make_watcher(Console(file=out, force_terminal=True, width=200), [one]) as watcher:
        assert type(watcher) is not Lines
        watcher.begin_cell(0, 1, one)
        watcher.show_step("pgd_eot", 0)
        watcher.end_cell(one, "done", "clean 1 %")
    text = out.getvalue()
    assert "step 1 of 20" in text and "0 of 128 images" in text


GRID = """
from dataclasses import dataclass
from typing import ClassVar
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses import Purifier, register


@register
@dataclass(frozen=True, kw_only=True)
class Broken(Purifier):
    source: ClassVar[str] = "here"
    stochastic: ClassVar[bool] = False

    def build(self, *, classifier=None, score=None, gradient="exact"):
        def purify(images, noise):
            raise RuntimeError("broken \\x1b[31m on purpose")
        return purify


def cells():
    yield Cell(dataset="digits", classifier="digits_cnn", defense=Broken(), attack=PGDEOT(steps=1),
               threat=ThreatModel(epsilon=0.1), num_images=2, draws=1)
"""


def test_the_traceback_is_kept_and_shown(tmp_path: Path) -> None:
    grid, db, log = tmp_path / "broken_on_purpose.py", tmp_path / "r.sqlite", tmp_path / "run.log"
    grid.write_text(GRID, encoding="utf-8")
    given = ["run", "--grid", str(grid), "--db", str(db), "--verbose", "--log", str(log), "--retries", "0"]
    ran = CliRunner().invoke(main, given)
    assert ran.exit_code == 1 and "\x1b" not in ran.output
    sentence = r"RuntimeError: broken \x1b[31m on purpose"
    assert sentence in ran.stdout and "Traceback" in ran.stderr and "Traceback" not in ran.stdout
    assert sentence in log.read_text(encoding="utf-8") and "Traceback" in log.read_text(encoding="utf-8")
    key = re.search(r"bench show (\w+)", ran.stdout)
    assert key is not None
    told = CliRunner().invoke(main, ["show", key[1], "--db", str(db)]).output
    assert "traceback:" in told and "in purify" in told and sentence in told and "broken_on_purpose.py" in told


def test_a_log_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["run", "--log", str(tmp_path / "nowhere" / "x.log"), "--limit", "1"])
    assert ran.exit_code == 2 and "There is no folder" in ran.stderr


def test_a_user_class_whose_costs_fail_costs_no_run() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(Undefended):
        @property
        def network_evaluations(self) -> int:
            raise RuntimeError("not counted")

    @dataclass(frozen=True, kw_only=True)
    class OddAttack(PGDEOT):
        def queries(self) -> tuple[int, int]:
            raise RuntimeError("not counted")

    one, out = cell(defense=Odd(), attack=OddAttack(steps=3)), io.StringIO()
    with make_watcher(Console(file=out, width=200), [one]) as watcher:
        watcher.begin_cell(0, 1, one)
        watcher._said = -1e9
        watcher.show_step("pgd_eot", 0)
        watcher.end_cell(one, "done", "clean 1 %")
    assert "step 1 of 3" in out.getvalue() and "clean 1 %" in out.getvalue()
