"""`bench export`, `draw`, `plot` and `purify` on measured digits: every format read back, every picture a picture."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.commands.strip import choose_scale, show_difference
from bench.evidence import vault_beside
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended

FIELDS = {
    "dataset": "digits", "classifier": "digits_cnn", "attack": PGDEOT(steps=2, step_size=0.1, eot=1), "num_images": 6,
    "batch_size": 4, "draws": 3,
}  # fmt: skip
PLAIN = [Cell(defense=Undefended(), threat=ThreatModel(epsilon=e), **FIELDS) for e in (0.05, 0.1, 3 / 16)]
NOISY = Cell(
    defense=DiffPureSDE(t=0.1, steps=2), score="digits_score", threat=ThreatModel(epsilon=3 / 16), **FIELDS
)  # fmt: skip


class Silent:
    def begin_cell(self, *_: object) -> None: ...
    def show_step(self, *_: object) -> None: ...
    def show_images(self, *_: object) -> None: ...
    def end_cell(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "r.sqlite"
    with Store(path) as store:
        run_cells([*PLAIN, NOISY], store, Loader(torch.device("cpu")), Silent(), grid="t", vault=vault_beside(path))
    return path


def bench(db: Path, *words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [*map(str, words), *(("--db", str(db)) if words[0] != "purify" else ())])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_npz_is_what_the_judge_saw_and_can_be_judged_again(db: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    bench(db, "export", NOISY.key, "-o", path)
    with np.load(path) as file:
        arrays = dict(file)
    with Store(db, readonly=True) as store:
        records = store.images(store.latest_done(NOISY.key)["id"])
    assert arrays["x_adv"].shape == (6, 1, 8, 8) and arrays["x_adv"].dtype == np.float32
    assert arrays["robust_votes"].shape == (6, 10) and (arrays["robust_votes"].sum(1) == 3).all()
    assert arrays["robust_correct"].tolist() == [record.robust_correct for record in records]
    assert [row[label] for row, label in zip(arrays["robust_votes"], arrays["y"], strict=True)] == list(
        arrays["robust_correct"]
    )
    said = bench(tmp_path / "again.sqlite", "verify", "--images", path, "--by", "us", "--dataset", "digits",
                 "--classifier", "digits_cnn", "--epsilon", "0.1875")  # fmt: skip
    assert "attack `external`, by us" in said


def test_png_and_its_table(db: Path, tmp_path: Path) -> None:
    assert "Rounded to 8 bits" in bench(db, "export", NOISY.key, "--format", "png", "-o", tmp_path / "p")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p" / "index.csv").read_text())))
    assert len(rows) == 6 and json.loads(rows[0]["robust_votes"])
    assert all(Image.open(tmp_path / "p" / row["file"]).size == (8, 8) for row in rows)


def test_parquet_and_croissant(db: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    bench(db, "export", NOISY.key, "--format", "croissant", "-o", tmp_path / "c")
    table = parquet.read_table(tmp_path / "c" / "images.parquet").to_pylist()
    image = np.frombuffer(table[0]["x_adv"], "<f4").reshape(table[0]["shape"])
    assert len(table) == 6 and image.shape == (1, 8, 8) and 0 <= image.min() <= image.max() <= 1
    told = json.loads((tmp_path / "c" / "croissant.json").read_text())
    assert {f["name"] for f in told["recordSet"][0]["field"]} == set(table[0])
    assert told["distribution"][0]["contentUrl"] == "images.parquet" and len(told["distribution"][0]["sha256"]) == 64


def test_the_hub_reads_the_results(db: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    bench(db, "export", NOISY.key, "--format", "hf", "-o", tmp_path / "h")
    results = ModelCard.load(tmp_path / "h" / "README.md").data.eval_results
    with Store(db, readonly=True) as store:
        run = store.latest_done(NOISY.key)
    values = {result.metric_name.split(" under")[0]: result.metric_value for result in results}
    assert values["robust accuracy"] == round(run["robust_accuracy"], 2) and values["clean accuracy"] > 50
    assert all(result.dataset_args["tier"] == "quick" for result in results)


def test_a_cell_without_images_is_told(db: Path, tmp_path: Path) -> None:
    for verb in ("export", "draw"):
        assert "not at" in bench(db, verb, NOISY.key, "--evidence", tmp_path / "no", code=2)
    other = tmp_path / "o.sqlite"
    with Store(other) as store:
        run_cells(PLAIN[:1], store, Loader(torch.device("cpu")), Silent(), grid="t")
    for verb in ("export", "draw"):
        assert "--no-evidence" in bench(other, verb, PLAIN[0].key, code=2)


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_strips(db: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"s.{form}"
    said = bench(db, "draw", NOISY.key, "--images", 3, "--draws", 2, "-o", path)
    assert "3 images" in said and "times 2.6" in said and path.stat().st_size > 3000
    if form == "svg":
        text = path.read_text()
        assert (
            all(head in text for head in ("clean", "adversarial", "difference × 2.6", "draw 2"))
            and "draw 3" not in text
        )
        assert re.search(r"\d of 3 right", text)


def test_a_defense_that_purifies_nothing_has_no_draws(db: Path, tmp_path: Path) -> None:
    bench(db, "draw", PLAIN[2].key, "--index", "", "--images", 2, "-o", tmp_path / "s.svg")
    assert "draw 1" not in (tmp_path / "s.svg").read_text()
    with Store(db, readonly=True) as store:
        index = store.images(store.latest_done(PLAIN[2].key)["id"])[4].index
    assert "1 images" in bench(db, "draw", PLAIN[2].key, "--index", index, "-o", tmp_path / "s.svg")
    assert "is not in this cell" in bench(db, "draw", PLAIN[2].key, "--index", 99999, "-o", tmp_path / "s.svg", code=2)
    assert "whole numbers" in bench(db, "draw", PLAIN[2].key, "--index", "a", "-o", tmp_path / "s.svg", code=2)


def test_the_scale_of_differences_is_what_it_says() -> None:
    difference = torch.tensor([[[[0.1, -8 / 255]]]])
    assert choose_scale(difference) == pytest.approx(5.0)
    assert choose_scale(torch.full((1, 1, 1, 1), 8 / 255)) == pytest.approx(15.0)
    assert choose_scale(torch.zeros(1, 1, 1, 1)) == 1
    shown = show_difference(torch.zeros(1, 1, 2), difference[0], 5.0)
    assert shown[0, 0].tolist() == pytest.approx([1.0, 0.5 - 40 / 255])


@pytest.mark.parametrize(
    "words",
    [
        ("--x", "epsilon", "--by", "defense"), ("--kind", "worst"), ("--kind", "convergence"),
        ("--kind", "convergence", "--y", "loss"), ("--x", "evaluations", "--log", "--y", "clean"),
        ("--kind", "votes", NOISY.key),
    ],
    ids=" ".join,
)  # fmt: skip
def test_plots(db: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "p.svg"
    assert "Wrote" in bench(db, "plot", *words, "-o", path)
    assert path.read_text().startswith("<svg")


def test_a_number_in_doubt_leaves_the_house_with_its_doubts(db: Path, tmp_path: Path) -> None:
    """In cards for other programs, and in the names of a picture's lines."""
    copy = shutil.copytree(db.parent, tmp_path / "copy") / db.name
    asked = {
        "hf": ("export", NOISY.key, "--format", "hf", "-o", tmp_path / "h"),
        "croissant": ("export", NOISY.key, "--format", "croissant", "-o", tmp_path / "c"),
        "worst": ("plot", NOISY.key, "--kind", "worst", "-o", tmp_path / "w.svg"),
        "votes": ("plot", NOISY.key, "--kind", "votes", "-o", tmp_path / "v.svg"),
    }
    files = {"hf": "h/README.md", "croissant": "c/croissant.json", "worst": "w.svg", "votes": "v.svg"}
    for gates, doubted in (([], False), ([{"gate": "unseen", "passed": False, "reason": "It knows them."}], True)):
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute("UPDATE runs SET gates = ? WHERE cell_key = ?", (json.dumps(gates), NOISY.key))
        for words in asked.values():
            bench(copy, *words)
        told = {name: (tmp_path / file).read_text().lower() for name, file in files.items()}
        assert ["in doubt" in text for text in told.values()] == [doubted] * 4
        assert ["it knows them." in told[name] for name in ("hf", "croissant")] == [doubted] * 2


def test_plots_that_cannot_be_are_told(db: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    for words, sentence in (
        ((), "Expected --x NAME"),
        (("--x", "sigma"), "Numbers that differ among them: "),
        (("--x", "epsilon", "--by", "defence"), "Did you mean 'defense'"),
        (("--kind", "votes"), "Expected one cell"),
        (("--kind", "published"), "Expected cells that name a published number"),
        (("--x", "epsilon", "-o", tmp_path / "p.gif"), "svg, png, pdf"),
    ):
        words = words if "-o" in words else (*words, "-o", path)
        assert sentence in bench(db, "plot", *words, code=2)
    assert not path.exists()


def test_own_pictures(tmp_path: Path) -> None:
    for name, size in (("a.png", (8, 8)), ("b.png", (40, 20)), ("c/a.png", (9, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(
            tmp_path / name
        )
    words = (
        "purify",
        tmp_path / "a.png",
        tmp_path / "b.png",
        tmp_path / "c" / "a.png",
        "--dataset",
        "digits",
        "--draws",
        2,
    )
    said = bench(tmp_path, *words, "--set", "steps=2", "-o", tmp_path / "out")
    assert re.search(r"a.png: before \d; after \d, \d", said) and "its middle resized to 8x8" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"strip.png", *(f"{stem}_purified_{n}.png" for stem in ("a", "b", "a_2") for n in (1, 2))}
    assert Image.open(tmp_path / "out" / "b_purified_1.png").size == (8, 8)
    assert bench(tmp_path, *words, "--set", "steps=2", "-o", tmp_path / "out") == said
    assert "no picture" in bench(tmp_path, "purify", tmp_path / "none.png", "--dataset", "digits", code=2)
    (tmp_path / "broken.png").write_bytes(b"no")
    assert "Expected a picture" in bench(tmp_path, "purify", tmp_path / "broken.png", "--dataset", "digits", code=2)
