"""What a run took of the machine: stored with each batch, and told by `bench show`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.commands.show import show
from bench.run.flops import operations_of_call
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.run.work import Watcher
from bench.store import Store
from bench.threat import ThreatModel
from defenses import memory
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended

CELL = Cell(
    dataset="digits", classifier="digits_cnn", score=None, defense=Undefended(), attack=PGDEOT(steps=2, eot=1),
    threat=ThreatModel(epsilon=3 / 16), num_images=6, batch_size=3, tier="quick",
)  # fmt: skip


def test_memory_and_operations_are_stored_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    purified = dataclasses.replace(CELL, defense=DiffPureSDE(t=0.1, steps=2), score="digits_score", draws=2)
    watcher = create_autospec(Watcher, instance=True)
    with Store(path) as store:
        run_cells([CELL, purified], store, Loader(torch.device("cpu")), watcher, grid="mine")
        for cell, each in ((CELL, 1_826_816), (purified, 1_552_384)):  # counted by hand from the layers
            batches = store.batches(store.latest_done(cell.key)["id"])
            assert [b.operations for b in batches] == [each * b.network_evaluations for b in batches]
            assert all(0 < b.peak_bytes < b.device_bytes for b in batches)
    told = show(str(path), CELL.key)
    assert "  memory: " in told and "GiB at most (" in told and "of the counted network" in told


def test_a_network_that_cannot_be_counted_is_no_error() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not today")

    assert operations_of_call("odd of a test", Odd(), torch.zeros(1, 1, 8, 8)) is None


def test_the_highest_of_a_gpu_outlives_a_measurement_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """`peak_bytes` begins to watch anew, in the middle of a batch whose own highest must not be forgotten."""
    taken, highest = [100], [900]
    monkeypatch.setattr(memory, "_HIGHEST", {})
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: highest[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: highest.__setitem__(0, taken[0]))
    gpu = torch.device("cuda")
    assert memory.peak_bytes(gpu, lambda: highest.__setitem__(0, 350)) == 250
    assert memory.highest_bytes(gpu) == 900
    memory.forget_highest(gpu)
    assert memory.highest_bytes(gpu) == 100
