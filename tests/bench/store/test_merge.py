"""Merging: every run once, by content, and two measurements under one run are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from store_data import CELL, PROVENANCE, SUMMARY, batch, finished, image, save_all

from bench.cli import main
from bench.store import Store, StoreError
from bench.store.merge import merge_databases

KEY, ROOT = CELL["key"], Path(__file__).parents[3]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a copy of it: what a `git clone` makes."""
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with Store(a) as store:
        finished(store)
    shutil.copy(a, b)
    return a, b


def change(path: Path, sql: str) -> None:
    with Store(path) as store, store._writing() as connection:
        connection.execute(text(sql))


def contents(path: Path) -> list[tuple[object, ...]]:
    with Store(path, readonly=True) as store:
        runs = [run for cell in store.progress() for run in store.runs_of(cell["key"])]
        return [
            (run["cell_key"], str(run["started_at"]), run["robust_accuracy"], store.images(run["id"])) for run in runs
        ]


def test_copies_are_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert merge_databases(two, tmp_path / "c.sqlite") == 1
    assert contents(tmp_path / "c.sqlite") == contents(two[0])


def test_what_each_has_alone_is_in_both_orders_the_same(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Both files gave the number 2 to another run."""
    for number, path in enumerate(two):
        with Store(path) as store:
            store.add_cell({**CELL, "key": f"ff0{number}", "seed": 1 + number})
            run = store.start_run(f"ff0{number}", **PROVENANCE)
            save_all(store, run)
            store.finish_run(run, **{**SUMMARY, "robust_accuracy": 10.0 * number})
    assert merge_databases(two, tmp_path / "c.sqlite") == 3
    merge_databases(two[::-1], tmp_path / "d.sqlite")
    assert sorted(map(str, contents(tmp_path / "c.sqlite"))) == sorted(map(str, contents(tmp_path / "d.sqlite")))
    assert merge_databases([tmp_path / "c.sqlite", *two], tmp_path / "c.sqlite") == 3  # onto itself


def test_a_run_that_went_on_in_one_of_them(tmp_path: Path) -> None:
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with Store(a) as store:
        store.add_cell(CELL)
        store.start_run(KEY, **PROVENANCE)
        store.save_batch(1, batch(0), [image(42, 10), image(7, 7)])
    shutil.copy(a, b)
    with Store(b) as store:
        store.save_batch(1, batch(1), [image(99, 5), image(3, 0)])
        store.finish_run(1, **SUMMARY)
    for files in ([a, b], [b, a]):
        assert merge_databases(files, tmp_path / "c.sqlite") == 1
        assert contents(tmp_path / "c.sqlite") == contents(b)
        with Store(tmp_path / "c.sqlite") as store:
            assert store.results()[0]["robust_accuracy"] == SUMMARY["robust_accuracy"]


def test_batches_that_each_has_alone_are_joined(tmp_path: Path) -> None:
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with Store(a) as store:
        store.add_cell(CELL)
        store.start_run(KEY, **PROVENANCE)
    shutil.copy(a, b)
    for number, (path, images) in enumerate(((a, [image(42), image(7)]), (b, [image(99), image(3)]))):
        with Store(path) as store:
            store.save_batch(1, batch(number), images)
    merge_databases([a, b], tmp_path / "c.sqlite")
    with Store(tmp_path / "c.sqlite") as store:
        joined = store.join_run(KEY, PROVENANCE, PROVENANCE)
        assert joined.run_id == 1 and store.count_images(1) == 4
        claim = store.claim_unit(1, batches=2, gates=False, lease=60.0)
        assert claim is not None and claim.unit == "summary"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE images SET robust_correct = 9 WHERE image_index = 42",
        "UPDATE images SET distance = 0 WHERE image_index = 3",
        "UPDATE runs SET robust_accuracy = 99",
        "UPDATE batches SET network_evaluations = 1 WHERE number = 1",
        "UPDATE cells SET epsilon = 0.5",
    ],
)
def test_two_measurements_under_one_run_are_refused(two: tuple[Path, Path], tmp_path: Path, sql: str) -> None:
    change(two[1], sql)
    before = [path.read_bytes() for path in two]
    for output in (tmp_path / "c.sqlite", two[0]):
        with pytest.raises(StoreError):
            merge_databases(two, output)
    assert [path.read_bytes() for path in two] == before and not (tmp_path / "c.sqlite").exists()


def test_the_verb(two: tuple[Path, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["merge", *map(str, two), "-o", str(tmp_path / "c.sqlite")])
    assert done.exit_code == 0 and "1 runs" in done.output
    missing = CliRunner().invoke(main, ["merge", str(tmp_path / "no.sqlite"), "-o", str(tmp_path / "c.sqlite")])
    assert missing.exit_code == 2 and "no results at" in missing.output


def test_git_joins_two_changed_databases(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The merge driver of docs/cluster.md, on two branches that each measured another cell."""
    home, driver = tmp_path / "home", f"{sys.executable} -m bench.cli merge %A %B -o %A"
    home.mkdir()

    def git(*words: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", f"merge.bench.driver={driver}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": "/dev/null"}
        done = subprocess.run(["git", *names, *words], cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def measure(key: str, seed: int) -> None:
        with Store(home / "results.sqlite") as store:
            store.add_cell({**CELL, "key": key, "seed": seed})
            run = store.start_run(key, **PROVENANCE)
            save_all(store, run)
            store.finish_run(run, **SUMMARY)
        git("commit", "-qam", key)

    git("init", "-q", "-b", "main")
    shutil.copy(ROOT / ".gitattributes", home)
    shutil.copy(two[0], home / "results.sqlite")
    git("add", "-A")
    git("commit", "-qm", "first")
    git("checkout", "-q", "-b", "other")
    measure("ff00", 1)
    git("checkout", "-q", "main")
    measure("ff01", 2)
    git("merge", "-q", "other", "-m", "joined")
    assert {row[0] for row in contents(home / "results.sqlite")} == {KEY, "ff00", "ff01"}
    assert git("status", "--porcelain") == ""
