"""`bench verify` says yes to what was measured, and finds a planted change of one pixel, one label, one vote."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sqlalchemy import text

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.datasets import load_dataset
from bench.evidence import pack_batch, unpack_batch, vault_beside
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended

FIELDS = {
    "dataset": "digits", "classifier": "digits_cnn", "threat": ThreatModel(epsilon=3 / 16), "num_images": 12,
    "batch_size": 8, "draws": 4,
}  # fmt: skip
PLAIN = Cell(defense=Undefended(), attack=PGDEOT(steps=2, step_size=0.1, eot=1), **FIELDS)
NOISY = Cell(
    defense=DiffPureSDE(t=0.1, steps=2), score="digits_score", attack=PGDEOT(steps=1, step_size=0.2, eot=1), **FIELDS
)


class Silent:
    def begin_cell(self, *_: object) -> None: ...
    def show_step(self, *_: object) -> None: ...
    def show_images(self, *_: object) -> None: ...
    def end_cell(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    path = folder / "r.sqlite"
    with Store(path) as store:
        run_cells([PLAIN, NOISY], store, Loader(torch.device("cpu")), Silent(), grid="t", vault=vault_beside(path))
    return folder


@pytest.fixture
def db(measured: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured, tmp_path / "copy")
    return tmp_path / "copy" / "r.sqlite"


def verify(db: Path, *words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["verify", *map(str, words), "--db", str(db)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def change(db: Path, *statements: str) -> None:
    with Store(db) as store, store._writing() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rewrite(db: Path, edit: Callable[[np.ndarray, list], None], *, sums: bool) -> None:
    """Change pixels or records in the first file of PLAIN; `sums` also stores the new file's sum."""
    with Store(db, readonly=True) as store:
        run = store.latest_done(PLAIN.key)["id"]
        batch, records = store.batches(run)[0], store.images(run)[:8]
    vault = vault_beside(db)
    kept = unpack_batch(vault.read(batch.evidence))
    pixels = kept.images.copy()
    edit(pixels, records)
    data = pack_batch(pixels, records, kept.about)
    Path(vault.root, batch.evidence).write_bytes(data)
    if sums:
        change(db, f"UPDATE batches SET evidence_sha256 = '{hashlib.sha256(data).hexdigest()}' WHERE number = 0 "
                   f"AND run_id = {run}")  # fmt: skip


def test_what_was_measured_is_verified(db: Path) -> None:
    for cell in (PLAIN, NOISY):
        code, said = verify(db, cell.key[:8], "--replay")
        assert code == 0 and "VERIFIED" in said and "WRONG" not in said, said
        assert "give every vote again" in said
    before = db.read_bytes()
    assert verify(db, NOISY.key, "--draws", 6)[1].count("6 fresh draws") == 1
    assert db.read_bytes() == before


def test_one_pixel_is_found(db: Path) -> None:
    def edit(pixels: np.ndarray, records: list) -> None:
        pixels[3, 0, 4, 4] = np.nextafter(pixels[3, 0, 4, 4], np.float32(0.5))

    rewrite(db, edit, sums=False)
    code, said = verify(db, PLAIN.key)
    assert code == 1 and "changed or damaged" in said and "NOT VERIFIED" in said


def test_one_pixel_outside_of_the_ball_is_found_though_the_sums_were_made_to_fit(db: Path) -> None:
    def edit(pixels: np.ndarray, records: list) -> None:
        pixels[3, 0, 4, 4] = 1 - round(pixels[3, 0, 4, 4])

    rewrite(db, edit, sums=True)
    code, said = verify(db, PLAIN.key)
    assert code == 1 and "Expected adversarial images in [0, 1] within Linf 0.1875" in said


@pytest.mark.parametrize("cell", [PLAIN, NOISY], ids=["plain", "noisy"])
def test_one_label_is_found(db: Path, cell: Cell) -> None:
    with Store(db, readonly=True) as store:
        run = store.latest_done(cell.key)["id"]
        index = store.images(run)[2].index
    change(db, f"UPDATE images SET label = (label + 1) % 10 WHERE run_id = {run} AND image_index = {index}")
    code, said = verify(db, cell.key)
    assert code == 1 and f"image {index}: label" in said and "the data set says" in said


@pytest.mark.parametrize("kept", [True, False], ids=["with images", "without"])
@pytest.mark.parametrize("kind", ["clean", "robust", "null", "rounded"])
def test_one_vote_is_found(db: Path, kind: str, kept: bool) -> None:
    """One vote of one image, its count with it; the accuracies and the file still speak of the other."""
    with Store(db, readonly=True) as store:
        run = store.latest_done(NOISY.key)["id"]
        row = next(row for row in store.image_rows(run) if 0 < row[f"{kind}_correct"])
    votes, label = dict(row[f"{kind}_votes"]), row["label"]
    votes[label] -= 1
    other = (label + 1) % 10
    votes[other] = votes.get(other, 0) + 1
    where = f"run_id = {run} AND image_index = {row['image_index']}"
    quoted = json.dumps(votes).replace(":", "\\:")
    change(db, f"UPDATE images SET {kind}_votes = '{quoted}', {kind}_correct = {kind}_correct - 1 WHERE {where}")
    if not kept:
        change(db, f"UPDATE batches SET evidence = NULL, evidence_sha256 = NULL WHERE run_id = {run}")
    code, said = verify(db, NOISY.key)
    assert code == 1 and f"{kind}_accuracy is stored as" in said
    assert not kept or f"image {row['image_index']}: {kind}_votes" in said


def test_votes_that_were_changed_everywhere_are_found_by_the_very_draws(db: Path) -> None:
    """Rows, file and sum agree with each other: one image is now called robust in rows, file and accuracies."""
    with Store(db, readonly=True) as store:
        run = store.latest_done(PLAIN.key)["id"]
        record = next(r for r in store.images(run)[:8] if r.robust_correct == 0)

    def edit(pixels: np.ndarray, records: list) -> None:
        place = [r.index for r in records].index(record.index)
        records[place] = replace(records[place], robust_votes={record.label: 1})

    rewrite(db, edit, sums=True)
    where, quoted = f"run_id = {run} AND image_index = {record.index}", f'{{"{record.label}"\\: 1}}'
    rounded = json.dumps(record.rounded_votes).replace(":", "\\:")  # else it would be what robust_votes say
    new = f"robust_votes = '{quoted}', robust_correct = 1, rounded_votes = '{rounded}'"
    change(db, f"UPDATE images SET {new} WHERE {where}")
    from bench.statistics import summarize

    with Store(db, readonly=True) as store:
        new = summarize(store.images(run), stochastic=False, seed=PLAIN.seed)
    change(
        db, "UPDATE runs SET " + ", ".join(f"{k} = {v}" for k, v in new.items() if v is not None) + f" WHERE id = {run}"
    )
    code, said = verify(db, PLAIN.key)
    assert code == 1 and "off by" in said and f"images {record.index}" in said


def test_a_cell_without_images_says_so(db: Path) -> None:
    shutil.rmtree(db.with_suffix(".evidence"))
    code, said = verify(db, PLAIN.key)
    assert code == 3 and "missing: The adversarial images are not at" in said and "INCOMPLETE" in said
    change(db, "UPDATE batches SET evidence = NULL, evidence_sha256 = NULL")
    code, said = verify(db, PLAIN.key)
    assert code == 3 and "none were kept" in said
    code, said = verify(db)
    assert code == 2 and "Expected a cell or --grid" in said


def given(path: Path, **changes: object) -> Path:
    data = load_dataset("digits")
    index = np.array([5, 0, 17])
    clean = data.images(index).numpy()
    arrays = {"x_adv": np.clip(clean + 0.1, 0, 1), "y": data.labels[index].numpy(), "index": index, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


WORDS = ("--by", "A. <script>", "--dataset", "digits", "--classifier", "digits_cnn", "--epsilon", "0.1875")


def test_images_of_others_are_judged_and_stored(tmp_path: Path) -> None:
    db = tmp_path / "r.sqlite"
    noisy = ("--defense", "diffpure_sde", "--set", "steps=2", "--set", "t=0.1", "--score", "digits_score")
    for defense in (("--defense", "undefended"), noisy):
        code, said = verify(db, "--images", given(tmp_path / "x.npz"), *WORDS, *defense)
        assert code == 0 and "attack `external`, by A. <script>" in said, said
    with Store(db, readonly=True) as store:
        rows = store.results()
        assert {row["attack"] for row in rows} == {"external"} and rows[0]["attack_params"]["by"] == "A. <script>"
        plain = next(row for row in rows if row["defense"] == "undefended")
        assert [r.index for r in store.images(plain["run_id"])] == [5, 0, 17] and plain["num_images"] == 3
        assert plain["gates"] is None
    code, said = verify(db, plain["cell_key"])
    assert code == 0 and "VERIFIED" in said, said
    report = CliRunner().invoke(main, ["report", "--db", str(db), "--format", "html"])
    assert report.exit_code == 0 and "A. &lt;script&gt;" in report.output and "<script>" not in report.output


def test_8_bit_images_and_floats_are_one_to_the_judge(tmp_path: Path) -> None:
    data = load_dataset("digits")
    index = np.arange(20)
    eight = np.round(np.clip(data.images(index).numpy() + 0.1, 0, 1) * 255).astype(np.uint8)
    found = []
    for number, x in enumerate((eight, eight.astype(np.float32) / 255, eight.transpose(0, 2, 3, 1), eight / 255)):
        path, db = tmp_path / f"{number}.npz", tmp_path / f"{number}.sqlite"
        np.savez(path, x_adv=x, y=data.labels[index].numpy(), index=index)
        assert verify(db, "--images", path, *WORDS)[0] == 0
        with Store(db, readonly=True) as store:
            (row,) = store.results()
            found.append((row["cell_key"], row["robust_accuracy"]))
            assert row["rounded_accuracy"] == row["robust_accuracy"]
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y": np.array([1, 1, 1])}, "Expected the labels of digits"),
        ({"index": np.array([5, 5, 17])}, "2 times"),
        ({"index": np.array([5, 0, 9999])}, "got 9999"),
        ({"index": None}, "it has no index"),
        ({"x_adv": np.zeros((3, 3, 32, 32))}, r"shape \(n, 1, 8, 8\)"),
        ({"x_adv": np.zeros((3, 1, 8, 8)) + 200.0}, "Divide 8-bit pictures by 255"),
        ({"x_adv": np.full((3, 1, 8, 8), np.nan)}, r"in \[0, 1\]"),
        ({"x_adv": np.zeros((3, 1, 8, 8), np.int64)}, "uint8"),
        ({"x_adv": np.zeros((3, 1, 8, 8))}, "within Linf 0.1875"),
        ({"y": np.array(["a", "b", "c"])}, "whole numbers"),
    ],
)
def test_images_that_are_not_what_is_said_are_refused(tmp_path: Path, changes: dict, sentence: str) -> None:
    import re

    code, said = verify(tmp_path / "r.sqlite", "--images", given(tmp_path / "x.npz", **changes), *WORDS)
    assert code == 2 and re.search(sentence, said), said
    assert not (tmp_path / "r.sqlite").exists()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no zip")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("x.npz", "one.npy", "missing.npz"):
        code, said = verify(tmp_path / "r.sqlite", "--images", tmp_path / name, *WORDS)
        assert code == 2 and "np.savez" in said, said
    code, said = verify(tmp_path / "r.sqlite", "--images", tmp_path / "x.npz")
    assert code == 2 and "--dataset, --classifier, --by" in said
