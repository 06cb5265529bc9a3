"""No cell stops a grid: exits, hangs and what a defense does to the process end or change that cell alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.run.guest import CellEnded, CellTimeout, Guests
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.run.work import Outcome, Sharing
from bench.store import Store
from bench.threat import ThreatModel
from defenses.base import Purifier, Purify
from defenses.gaussian_noise import GaussianNoise

ROOT = Path(__file__).resolve().parents[3]
LOADER = Loader(torch.device("cpu"))


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_step(self, attack: str, step: int) -> None: ...
    def show_images(self, done: int, total: int) -> None: ...
    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.lines.append((status, text))


@dataclass(frozen=True, kw_only=True)
class Misbehaves(Purifier):
    """Does something to the process when it is asked."""

    name: ClassVar[str] = "misbehaves"
    title: ClassVar[str] = "misbehaves"
    source: ClassVar[str] = "here"
    stochastic: ClassVar[bool] = False
    does: ClassVar[Callable[[], Any]]

    def build(self, *, classifier: nn.Module | None = None, score: Any = None, gradient: str = "exact") -> Purify:
        def purify(images: Tensor, noise: Any) -> Tensor:
            type(self).does()
            return images

        return purify


def cell(defense: Purifier, **changes: Any) -> Cell:
    return Cell(
        dataset="digits", classifier="digits_cnn", defense=defense, attack=PGDEOT(steps=1, eot=1),
        threat=ThreatModel(epsilon=0.1), num_images=2, draws=1, **changes,
    )  # fmt: skip


def run(tmp_path: Path, does: Callable[[], Any], **rules: Any) -> tuple[Outcome, dict[str, Any], Told]:
    """A cell that does this, then an honest one; the first one's newest run."""
    Misbehaves.does = staticmethod(does)
    told, cells = Told(), [cell(Misbehaves()), cell(GaussianNoise(sigma=0.1))]
    with Store(tmp_path / "r.sqlite") as store:
        outcome = run_cells(cells, store, LOADER, told, grid="t", sharing=Sharing(**rules))
        return outcome, store.runs_of(cells[0].key)[0], told


EXITS: dict[str, tuple[Callable[[], Any], str]] = {
    "sys.exit": (lambda: sys.exit(0), "exit code 0"),
    "exit with a text": (lambda: sys.exit("done"), "'done'"),
    "os._exit": (lambda: os._exit(0), "os._exit"),
    "abort": (lambda: os.abort(), "os.abort"),
    "KeyboardInterrupt": (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "nobody pressed"),
    "GeneratorExit": (lambda: (_ for _ in ()).throw(GeneratorExit()), "GeneratorExit"),
    "recursion": (lambda: endless(), "recursion"),
}


def endless() -> Any:
    return endless()


@pytest.mark.parametrize("name", list(EXITS))
def test_what_ends_a_program_ends_the_cell_alone(name: str) -> None:
    does, sentence = EXITS[name]
    with pytest.raises((CellEnded, RecursionError), match=sentence), Guests() as guests, guests.hosting("a"):
        does()


def test_a_cell_that_ends_the_program_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    outcome, stored, told = run(tmp_path, lambda: sys.exit(0))
    assert len(outcome.failed) == len(outcome.done) == 1 and stored["status"] == "failed"
    assert "exit code 0" in stored["error_message"] and "sys.exit(0)" in stored["error_traceback"]
    assert stored["remedy"] and told.lines[-1][0] == "done"


def test_a_real_ctrl_c_still_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def spin() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass


def swallow() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            spin()
        except Exception:
            continue


def with_handlers_replaced() -> None:
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    spin()


@pytest.mark.parametrize(
    "hang",
    [spin, swallow, with_handlers_replaced, lambda: time.sleep(30), lambda: threading.Event().wait(30)],
    ids=["spins", "swallows", "replaces handlers", "sleeps", "waits"],
)
def test_a_hang_ends_with_a_sentence(hang: Callable[[], None]) -> None:
    begin = time.monotonic()
    with pytest.raises(CellTimeout, match="0.003 minutes") as caught, Guests(minutes=0.003).hosting("a"):
        hang()
    assert time.monotonic() - begin < 15 and "--cell-timeout" in caught.value.remedy


def test_a_cell_whose_time_is_up_is_not_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    def hang() -> None:
        time.sleep(60)

    outcome, stored, _ = run(tmp_path, hang, cell_timeout=0.1, retries=3)
    assert [c.defense.name for c in outcome.failed] == ["misbehaves"] and len(outcome.done) == 1
    assert (stored["error_class"], stored["failures"]) == ("CellTimeout", 1)
    assert "0.1 minutes" in stored["error_message"] and "hang" in stored["error_traceback"]


def test_the_alarm_of_a_cell_that_ended_is_silent() -> None:
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(20):
        guests = Guests(minutes=0.0002)
        try:
            with guests.hosting("a"):
                time.sleep(0.011)
        except CellTimeout:
            pass
    time.sleep(0.05)
    assert signal.getsignal(signal.SIGALRM) == before


def test_code_is_traced_after_an_alarm_as_before_it() -> None:
    """AutoAttack's library traces a call of the model; a flag of the interpreter that stays set never lets it end."""
    program = "import sys; from bench.run.alarm import Alarm\nwith Alarm(60): pass\ndef call(): return 1\n"
    program += "sys.settrace(lambda *_: None)\nassert call() == 1"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_a_cell_has_its_time_over_all_its_batches() -> None:
    guests = Guests(minutes=0.02)
    for _ in range(3):
        with guests.hosting("a"):
            time.sleep(0.3)
    with pytest.raises(CellTimeout), guests.hosting("a"):
        time.sleep(5)
    with guests.hosting("b"):
        time.sleep(0.01)


def test_a_thread_that_is_not_the_main_one_has_alarms_too() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with Guests(minutes=0.005) as guests, guests.hosting("a"):
                spin()
        except CellTimeout as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert caught


def test_what_a_cell_does_to_the_process_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[Any, ...]:
        handlers = tuple(signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM))
        return (
            sys.stdout, sys.stderr, handlers, os.getcwd(), os.environ.get("HOME"), sys.getrecursionlimit(),
            torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), list(warnings.filters),
        )  # fmt: skip

    def spoil() -> None:
        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.chdir("/")
        os.environ["HOME"] = "/nowhere"
        sys.setrecursionlimit(5000)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        warnings.simplefilter("error")

    before = state()
    with Guests().hosting("a"):
        spoil()
    assert state() == before
    with pytest.raises(CellEnded), Guests().hosting("a"):
        spoil()
        sys.exit()
    assert state() == before
    outcome, _, _ = run(tmp_path, spoil)
    assert any(c.defense.name == "gaussian_noise" for c in outcome.done) and state()[:6] == before[:6]


def test_prints_do_not_mix_with_our_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _, _ = run(tmp_path, lambda: print("hello from the defense"))
    out, err = capsys.readouterr()
    assert len(outcome.done) == 2 and "hello" not in out and "hello from the defense" in err
