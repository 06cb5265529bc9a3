"""A cell that is killed in the middle of a batch goes on there, and its rows are those of an unbroken run."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.momentum_pgd import MomentumPGD
from bench.cell import Cell
from bench.cli import main
from bench.commands.sharing import make_sharing
from bench.evidence import vault_beside
from bench.run import saved
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.run.work import Sharing
from bench.store import Store
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE

CELL = Cell(
    dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=2),
    attack=MomentumPGD(steps=6), threat=ThreatModel(epsilon=3 / 16), num_images=6, batch_size=3, draws=2, tier="quick",
)  # fmt: skip
LOADER = Loader(torch.device("cpu"))


class Killer:
    """A watcher that ends the process's work at a step of the whole run."""

    def __init__(self, stop_at: int = 0, error: Exception | None = None) -> None:
        self.steps, self.stop_at, self.told, self.error = 0, stop_at, [], error

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_images(self, done: int, total: int) -> None: ...
    def show_step(self, attack: str, step: int) -> None:
        self.steps += 1
        if self.steps == self.stop_at and self.error is not None:
            raise self.error
        if self.steps == self.stop_at:
            signal.raise_signal(signal.SIGINT)  # as a user does, or a cluster: what the code raises is its own error

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.told.append((status, text))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("bench.run.runner.find_gated", lambda cells: set())  # gates take longer than the attack
    return tmp_path / saved.FOLDER


def run(path: Path, cell: Cell = CELL, stop_at: int = 0, error: Exception | None = None, **sharing: Any) -> Killer:
    watcher = Killer(stop_at, error)
    rules = Sharing(**{"save_every": 0.0, **sharing})
    with Store(path) as store:
        run_cells([cell], store, LOADER, watcher, grid="mine", sharing=rules, vault=vault_beside(str(path)))
    return watcher


def stored(path: Path, cell: Cell = CELL) -> tuple[Any, ...]:
    """Images, curves, evaluations and adversarial images of the newest run."""
    with Store(path, readonly=True) as store:
        last = store.runs_of(cell.key)[0]
        batches = store.batches(last["id"])
        counted = [(batch.curve, batch.network_evaluations, batch.evidence_sha256) for batch in batches]
        return last["status"], store.images(last["id"]), counted, last["notes"]


@pytest.mark.parametrize(
    ("attack", "stop_at"), [(MomentumPGD(steps=6), 3), (MomentumPGD(steps=6), 10), (APGDEOT(steps=5, eot=2), 5)]
)
def test_a_killed_batch_goes_on(tmp_path: Path, folder: Path, attack: Any, stop_at: int) -> None:
    cell = dataclasses.replace(CELL, attack=attack)
    whole = run(tmp_path / "whole.sqlite", cell)
    path = tmp_path / "broken.sqlite"
    with pytest.raises(KeyboardInterrupt):
        run(path, cell, stop_at)
    assert len(list(folder.iterdir())) == 1
    again = run(path, cell)
    assert "continued" in [status for status, _ in again.told]
    assert again.steps <= whole.steps - stop_at + 2  # the step that was not finished, and APGD's first question
    assert stored(path, cell) == stored(tmp_path / "whole.sqlite", cell)
    assert not list(folder.iterdir())


def test_an_attack_that_failed_goes_on_when_it_is_tried_again(tmp_path: Path, folder: Path) -> None:
    run(tmp_path / "whole.sqlite")
    again = run(tmp_path / "r.sqlite", stop_at=10, error=RuntimeError("a device was lost"), retries=1)
    assert [status for status, _ in again.told] == ["retried", "continued", "done"]
    assert stored(tmp_path / "r.sqlite")[:3] == stored(tmp_path / "whole.sqlite")[:3] and not list(folder.iterdir())


def test_a_short_batch_writes_nothing(tmp_path: Path, folder: Path) -> None:
    run(tmp_path / "r.sqlite", save_every=10.0)
    assert not folder.exists()


def test_another_run_does_not_take_the_state(tmp_path: Path, folder: Path) -> None:
    """Two databases, or two runs of one, have a file each."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.sqlite", stop_at=4)
    assert [status for status, _ in run(tmp_path / "b.sqlite").told] == ["done"]
    assert len(list(folder.iterdir())) == 1


def test_spoilt_files_do_not_stop_a_cell(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "r.sqlite"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=4)
    (file,) = folder.iterdir()
    file.write_bytes(b"no state")
    assert [status for status, _ in run(path).told] == ["done"]
    assert stored(path)[0] == "done" and not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_to_does_not_stop_a_cell(tmp_path: Path, folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    assert [status for status, _ in run(tmp_path / "r.sqlite").told] == ["done"]


def test_old_files_are_removed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.sqlite", stop_at=4)
    monkeypatch.setattr(saved, "FORGOTTEN", -1.0)
    run(tmp_path / "b.sqlite")
    assert not list(folder.iterdir())


def test_time_counts_from_the_first_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.sqlite"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=4)
    unpack = saved.unpack

    def longer(content: bytes) -> Any:
        entries, state = unpack(content)
        return entries, {**state, "seconds": 1000.0}

    monkeypatch.setattr(saved, "unpack", longer)
    run(path)
    with Store(path, readonly=True) as store:
        assert store.batches(store.latest_done(CELL.key)["id"])[0].seconds > 1000


def test_the_commands_say_how_often() -> None:
    assert make_sharing(1, False, False, 120.0, 900.0, save_every=2.5)[0].save_every == 2.5
    for name in ("run", "worker"):
        (option,) = [option for option in main.commands[name].params if option.name == "save_every"]
        assert option.default == Sharing().save_every
