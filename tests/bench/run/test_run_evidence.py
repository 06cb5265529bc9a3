"""Runs keep their adversarial images: before the row, for every batch, with several processes, and after a merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.evidence import Vault, vault_beside
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended

LOADER = Loader(torch.device("cpu"))
CELL = Cell(
    dataset="digits", classifier="digits_cnn", defense=Undefended(), attack=PGDEOT(steps=3, step_size=0.08, eot=1),
    threat=ThreatModel(epsilon=3 / 16), num_images=10, batch_size=4, draws=3,
)  # fmt: skip
NOISY = Cell(
    dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=2),
    attack=PGDEOT(steps=1, step_size=0.08, eot=1), threat=ThreatModel(epsilon=3 / 16), num_images=4, draws=3,
)  # fmt: skip


class Silent:
    def begin_cell(self, *_: object) -> None: ...
    def show_step(self, *_: object) -> None: ...
    def show_images(self, *_: object) -> None: ...
    def end_cell(self, *_: object) -> None: ...


def measure(path: Path, *cells: Cell, force: bool = False, vault: Vault | None = None) -> None:
    with Store(path) as store:
        run_cells(cells, store, LOADER, Silent(), grid="test", force=force, vault=vault or vault_beside(path))


def test_every_batch_has_its_images(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    measure(path, CELL)
    prepared = LOADER.prepare(CELL)
    with Store(path, readonly=True) as store:
        run = store.latest_done(CELL.key)
        records, batches = store.images(run["id"]), store.batches(run["id"])
    assert [batch.evidence for batch in batches] == [f"{CELL.key}/{n}.safetensors" for n in range(3)]
    read = [vault_beside(path).read_batch(batch.evidence, batch.evidence_sha256) for batch in batches]
    assert [i for batch in read for i in batch.index] == [record.index for record in records]
    adversarial = torch.from_numpy(np.concatenate([batch.images for batch in read]))
    clean, labels, _ = prepared.batch(slice(0, 10))
    assert torch.equal(CELL.threat.distance(adversarial, clean), torch.tensor([r.distance for r in records]).double())
    answers = prepared.model()(adversarial).argmax(1)
    assert answers.tolist() == [next(iter(record.robust_votes)) for record in records]
    assert run["rounded_accuracy"] is not None and all(record.rounded_votes for record in records)


def test_a_kill_between_file_and_row_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.sqlite"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(path, CELL)
    assert (tmp_path / "r.evidence" / CELL.key / "0.safetensors").exists()
    measure(path, CELL)
    assert len(list((tmp_path / "r.evidence" / CELL.key).iterdir())) == 3  # the same bytes under the same name
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(path, CELL, force=True)
    with Store(path, readonly=True) as store:
        assert [len(store.batches(run["id"])) for run in store.runs_of(CELL.key)] == [0, 3]


def test_rounding_is_judged_on_the_same_draws(tmp_path: Path) -> None:
    """Where no pixel moves by rounding, no vote does either."""
    path = tmp_path / "r.sqlite"
    still = Cell(**{**vars(NOISY), "threat": ThreatModel(epsilon=0.0), "dataset": "digits"})
    measure(path, NOISY, still)
    with Store(path, readonly=True) as store:
        for cell in (NOISY, still):
            for record in store.images(store.latest_done(cell.key)["id"]):
                assert sum(record.rounded_votes.values()) == record.draws == 3
                assert cell is NOISY or record.rounded_votes == record.robust_votes


def run(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


GRID = ("--grid", "quickstart", "--filter", "defense=undefended", "--limit", 1, "--num-images", 8)


def test_the_command_line_keeps_them_or_not(tmp_path: Path) -> None:
    run("run", *GRID, "--db", tmp_path / "a.sqlite")
    run("run", *GRID, "--db", tmp_path / "b.sqlite", "--no-evidence")
    run("run", *GRID, "--db", tmp_path / "c.sqlite", "--evidence", tmp_path / "else")
    assert len(list((tmp_path / "a.evidence").rglob("*.safetensors"))) == 1
    assert not (tmp_path / "b.evidence").exists() and not (tmp_path / "c.evidence").exists()
    assert len(list((tmp_path / "else").rglob("*.safetensors"))) == 1
    done = CliRunner().invoke(main, ["run", "--no-evidence", "--evidence", "x", "--db", str(tmp_path / "d.sqlite")])
    assert done.exit_code == 2 and "Leave one of them out" in done.output


def test_merged_databases_take_the_images_along(tmp_path: Path) -> None:
    """Two hosts measured one cell: the files have one name and other content, and both come along."""
    a, b, c = (tmp_path / f"{name}.sqlite" for name in "abc")
    measure(a, CELL)
    measure(b, CELL, NOISY)
    moved = tmp_path / "b.evidence" / CELL.key / "0.safetensors"
    other = vault_beside(b).read(f"{NOISY.key}/0.safetensors")
    moved.write_bytes(other)
    with Store(b) as store, store._writing() as connection:
        import hashlib

        from sqlalchemy import text

        digest = hashlib.sha256(other).hexdigest()
        connection.execute(
            text("UPDATE batches SET evidence_sha256 = :s WHERE evidence = :e"),
            {"s": digest, "e": f"{CELL.key}/0.safetensors"},
        )
        connection.execute(text("UPDATE runs SET commit_hash = 'another'"))
    (tmp_path / "b.evidence" / CELL.key / "2.safetensors").unlink()
    said = run("merge", a, b, "-o", c)
    assert "6 files" in said and "1 files of adversarial images were missing" in said
    with Store(c, readonly=True) as store:
        found = [batch for r in store.runs_of(CELL.key) for batch in store.batches(r["id"])]
    vault = vault_beside(c)
    assert len({batch.evidence for batch in found}) == 4
    assert sum(vault.read_batch(x.evidence, x.evidence_sha256) is not None for x in found if x.evidence_sha256) == 6


@pytest.mark.slow
def test_several_workers_keep_all(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    words = ("--grid", "quickstart", "--filter", "defense=diffpure_sde", "--limit", 2, "--num-images", 128)
    run("run", *words, "--db", path, "--workers", 2)
    with Store(path, readonly=True) as store:
        for row in store.results():
            for batch in store.batches(row["run_id"]):
                assert len(vault_beside(path).read_batch(batch.evidence, batch.evidence_sha256).index) == 64
