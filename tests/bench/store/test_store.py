"""The store: what goes in comes out, what is wrong is refused in a sentence and changes nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from store_data import CELL, DATABASES, PROVENANCE, SUMMARY, batch, finished, fresh_url, image, save_all

from bench.store import Store, StoreError, default_url
from bench.store.claims import Joined
from bench.store.migrations import MIGRATIONS
from bench.store.network_files import check_shareable

KEY = CELL["key"]
ROOT = Path(__file__).resolve().parents[3]
DESIGN_COLUMNS = """dataset classifier score defense defense_params attack attack_params norm epsilon gradient tier
    num_images draws clean_accuracy robust_accuracy robust_low robust_high vote_accuracy worst_accuracy
    first_success_accuracy null_accuracy published_robust published_source verdict gates device precision
    network_evaluations seconds commit_hash measured_at cell_key clean_low clean_high null_low null_high
    null_first_success_accuracy verdict_reason grid data_seed seed batch_size""".split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with fresh_url(request.param, path) as url, Store(url) as opened:
        yield opened


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# What goes in comes out


def test_images_and_batches_come_back_as_they_went_in(store: Store) -> None:
    run = finished(store)
    assert store.images(run) == [image(42, 10), image(7, 7), image(99, 5), image(3, 0)]
    assert store.batches(run) == [batch(0), batch(1)]


def test_result_row(store: Store) -> None:
    run = finished(store)
    (row,) = store.results()
    assert set(DESIGN_COLUMNS) <= set(row)
    assert {name: row[name] for name in CELL if name in row} == {k: v for k, v in CELL.items() if k in row}
    assert {name: row[name] for name in SUMMARY} == SUMMARY
    assert (row["run_id"], row["cell_key"], row["commit_hash"]) == (run, KEY, "abc")
    assert (row["seconds"], row["network_evaluations"]) == (1.0, 80)
    assert abs((row["measured_at"] - store.runs_of(KEY)[0]["started_at"]).total_seconds()) < 60


def test_view_and_frame_agree_with_results(store: Store) -> None:
    finished(store)
    (row,) = store.results()
    columns, rows = store.query("SELECT * FROM results")
    assert columns == list(row)
    assert dict(zip(columns, rows[0], strict=True))["robust_accuracy"] == 50.0
    frame = store.frame()
    assert list(frame.columns) == columns
    assert frame.defense_params[0] == CELL["defense_params"]


def test_numpy_numbers_are_stored_as_numbers(store: Store) -> None:
    store.add_cell({**CELL, "num_images": numpy.int64(1), "defense_params": {"t": numpy.float32(0.5)}})
    run = store.start_run(KEY)
    votes = {numpy.int64(3): numpy.int64(10)}
    store.save_batch(run, batch(0), [replace(image(1), index=numpy.int64(5), robust_votes=votes)])  # type: ignore[arg-type]
    store.finish_run(run, robust_accuracy=numpy.float64(12.5), verdict="agrees")
    assert store.images(run)[0] == replace(image(5), robust_votes={3: 10})
    assert store.query("SELECT image_index + 1, distance * 0 FROM images")[1] == [(6, 0.0)]
    assert store.results()[0]["robust_accuracy"] == 12.5


def test_curve_that_diverged_is_kept(store: Store) -> None:
    store.add_cell(CELL)
    run = store.start_run(KEY)
    curve = [{"step": 0, "loss": float("nan")}, {"step": 1, "loss": float("inf")}]
    store.save_batch(run, replace(batch(0), curve=curve), [])
    assert store.batches(run)[0].curve == [{"step": 0, "loss": None}, {"step": 1, "loss": None}]


def test_published_number_stands_beside_the_measured_one(store: Store) -> None:
    known = next(row for row in store.published() if row["robust_acc"] is not None and row["n_images"])
    store.add_cell({**CELL, "published_key": known["key"]})
    run = store.start_run(KEY)
    save_all(store, run)
    store.finish_run(run, **SUMMARY)
    (row,) = store.results()
    assert (row["published_robust"], row["published_source"]) == (known["robust_acc"], known["source_key"])
    assert (row["published_images"], row["published_gradient"]) == (known["n_images"], known["gradient_access"])


# Runs


def test_newest_successful_run_is_shown_and_none_is_lost(store: Store) -> None:
    first, second = finished(store, robust_accuracy=10.0), finished(store, robust_accuracy=20.0)
    third = store.start_run(KEY)
    store.fail_run(third, ValueError("nan in the logits of image 7"))
    assert [row["robust_accuracy"] for row in store.results()] == [20.0]
    assert [run["id"] for run in store.runs_of(KEY)] == [third, second, first]
    newest = store.latest_done(KEY)
    assert newest is not None and newest["id"] == second
    assert len(store.images(first)) == 4


def test_failed_run_says_what_happened_and_what_to_do(store: Store) -> None:
    class MissingWeights(Exception):
        remedy = "bench train digits"

    store.add_cell(CELL)
    run = store.start_run(KEY)
    try:
        raise MissingWeights("no weights for plain")
    except MissingWeights as error:
        store.fail_run(run, error)
    (row,) = store.runs_of(KEY)
    assert (row["status"], row["error_class"]) == ("failed", "MissingWeights")
    assert row["error_message"] == "no weights for plain"
    assert row["remedy"] == "bench train digits"
    assert "raise MissingWeights" in row["error_traceback"]
    assert store.results() == [] and store.latest_done(KEY) is None


def test_batch_is_stored_once(store: Store) -> None:
    store.add_cell(CELL)
    run = store.start_run(KEY)
    store.save_batch(run, batch(0), [image(1), image(2)])
    with pytest.raises(StoreError, match="Batch 0 of run 1 is stored already"):
        store.save_batch(run, batch(0), [image(3)])
    with pytest.raises(StoreError, match="Image 2 would be in run 1 twice"):
        store.save_batch(run, batch(1), [image(3), image(2)])
    with pytest.raises(StoreError, match="Image 4 would be in run 1 twice"):
        store.save_batch(run, batch(1), [image(4), image(4)])
    assert [record.index for record in store.images(run)] == [1, 2]
    assert store.batches(run) == [batch(0)]


def test_run_is_done_only_with_all_its_images(store: Store) -> None:
    store.add_cell(CELL)
    run = store.start_run(KEY)
    store.save_batch(run, batch(0), [image(1), image(2)])
    with pytest.raises(StoreError, match="Expected 4 images in run 1 before it is done, found 2"):
        store.finish_run(run, **SUMMARY)
    assert store.runs_of(KEY)[0]["status"] == "running"


def test_finished_run_stays_as_it_is(store: Store) -> None:
    run = finished(store)
    for change in (
        lambda: store.save_batch(run, batch(2), [image(1)]),
        lambda: store.finish_run(run, robust_accuracy=99.0),
        lambda: store.fail_run(run, ValueError("late")),
        lambda: store.pause_run(run),
    ):
        with pytest.raises(StoreError, match="Expected a running run, got run 1, which is done"):
            change()
    assert store.results()[0]["robust_accuracy"] == 50.0


# Resuming


def unfinished(store: Store) -> int:
    store.add_cell(CELL)
    run = store.start_run(KEY, **PROVENANCE)
    store.save_batch(run, batch(0), [image(42, 10), image(7, 7)])
    return run


def join(store: Store, **changes: Any) -> Joined:
    return store.join_run(KEY, {**PROVENANCE, **changes}, {**PROVENANCE, **changes})


def test_all_who_ask_get_the_same_unfinished_run(store: Store) -> None:
    run = unfinished(store)
    assert join(store) == join(store) == Joined(run_id=run)
    save_rest(store, run)
    assert join(store).run_id is None  # done meanwhile
    again = store.join_run(KEY, PROVENANCE, PROVENANCE, done_before=run).run_id
    assert again is not None and again > run


def save_rest(store: Store, run: int) -> None:
    store.save_batch(run, batch(1), [image(99, 5), image(3, 0)])
    store.finish_run(run, **SUMMARY)


@pytest.mark.parametrize("change", [{"commit_hash": "def"}, {"weights": {"plain": "other"}}, {"batch_size": 7}])
def test_run_under_other_conditions_is_not_continued_and_says_why(store: Store, change: dict[str, Any]) -> None:
    run = unfinished(store)
    joined = join(store, **change)
    assert joined.run_id != run and joined.differs == tuple(change)


def test_failed_run_goes_on_and_remembers_its_error(store: Store) -> None:
    run = unfinished(store)
    store.fail_run(run, MemoryError("out of memory"))
    assert join(store).given_up  # no retry was asked for
    assert store.join_run(KEY, PROVENANCE, PROVENANCE, retries=1) == Joined(run_id=run)
    row = store.runs_of(KEY)[0]
    assert (row["status"], row["error_class"], row["finished_at"]) == ("running", None, None)
    store.save_batch(run, batch(1), [image(99, 5), image(3, 0)])
    store.finish_run(run, notes=["smaller batches"])
    assert store.runs_of(KEY)[0]["notes"] == ["resumed after MemoryError: out of memory", "smaller batches"]


def test_failures_of_earlier_commands_do_not_count(store: Store) -> None:
    run = unfinished(store)
    store.fail_run(run, MemoryError("out of memory"))
    assert store.join_run(KEY, PROVENANCE, PROVENANCE, failures_before={run: 1}) == Joined(run_id=run)


def test_run_older_than_a_finished_one_is_not_continued(store: Store) -> None:
    old, new = unfinished(store), finished(store)
    found = store.join_run(KEY, PROVENANCE, PROVENANCE, done_before=new).run_id
    assert found is not None and found not in (old, new)


# Cells and columns


def test_cell_is_added_once_and_keeps_the_last_grid(store: Store) -> None:
    store.add_cell(CELL)
    store.add_cell({**CELL, "grid": "paper_tables", "batch_size": 64})
    assert store.query("SELECT grid, batch_size FROM cells")[1] == [("paper_tables", 64)]


def test_two_cells_cannot_share_a_key(store: Store) -> None:
    store.add_cell(CELL)
    with pytest.raises(StoreError, match=r"stored with epsilon = 0\.031.* asked for with 0\.5"):
        store.add_cell({**CELL, "epsilon": 0.5})
    assert store.cell(KEY)["epsilon"] == 8 / 255


def test_cell_is_found_by_the_start_of_its_key(store: Store) -> None:
    store.add_cell(CELL)
    store.add_cell({**CELL, "key": "00ff000000000000", "seed": 1})
    assert store.cell("0011")["defense"] == "diffpure_sde"
    with pytest.raises(LookupError, match="'00' is not unique: 00112233aabbccdd, 00ff000000000000"):
        store.cell("00")
    with pytest.raises(LookupError, match="Did you mean '00112233aabbccdd'"):
        store.cell("00112233aabbccde")


def test_unknown_names_are_answered_with_known_ones(store: Store) -> None:
    with pytest.raises(StoreError, match="takes no 'epsilom' here. It takes: key, dataset,"):
        store.add_cell({**CELL, "epsilom": 1})
    with pytest.raises(LookupError, match="Unknown published number 'nie2022diffpure-0'.*'nie2022diffpure-1"):
        store.add_cell({**CELL, "published_key": "nie2022diffpure-0"})
    store.add_cell(CELL)
    with pytest.raises(StoreError, match="takes no 'status'"):
        store.start_run(KEY, status="done")
    with pytest.raises(StoreError, match="FOREIGN KEY|foreign key"):
        store.start_run("no such cell")


def test_votes_must_agree_on_the_draws() -> None:
    with pytest.raises(ValueError, match="got {'clean': 9, 'robust': 10, 'null': 10} for image 5"):
        image(5, clean_votes={3: 9})
    record = image(5, 7)
    assert (record.draws, record.clean_correct, record.robust_correct, record.null_correct) == (10, 10, 7, 9)


# SQL


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM runs",
        "UPDATE runs SET robust_accuracy = 99 WHERE id = 1",
        "INSERT INTO migrations VALUES (99, 'x', '2030-01-01')",
        "DROP VIEW results",
        "SELECT 1; DELETE FROM runs",
        "",
    ],
)
def test_query_only_reads(store: Store, sql: str) -> None:
    finished(store)
    with pytest.raises(StoreError):
        store.query(sql)
    assert store.results()[0]["robust_accuracy"] == 50.0


def test_query_says_why(store: Store) -> None:
    with pytest.raises(StoreError, match="reading only here.*Nothing was changed" if store._path else "DELETE"):
        store.query("DELETE FROM runs")
    with pytest.raises(StoreError, match="robust_acuracy"):
        store.query("SELECT robust_acuracy FROM results")


def test_query_takes_sql_as_it_is(store: Store) -> None:
    assert store.query("SELECT ':a', '50%', 7 AS n WHERE 'a' LIKE '%a'")[1] == [(":a", "50%", 7)]
    assert store.query("SELECT robust_accuracy FROM results") == (["robust_accuracy"], [])


# Files


def broken(path: Path, kind: str) -> str:
    """Make a file that is none of ours; what the error must say."""
    if kind == "no database":
        path.write_text("year,robust\n2024,50\n")
        return "is not a SQLite database"
    if kind == "truncated":
        Store(path).close()
        path.write_bytes(path.read_bytes()[:5000])
        return "damaged"
    connection = sqlite3.connect(path)
    if kind == "another program's":
        connection.execute("CREATE TABLE songs (title)")
    else:
        Store(path).close()
        connection.execute("INSERT INTO migrations VALUES (99, 'm099_future', '2030-01-01 00:00:00')")
    connection.commit()
    connection.close()
    return (
        "tables of another program .songs."
        if kind == "another program's"
        else f"newer version.*number 99.*knows {len(MIGRATIONS)}"
    )


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("kind", ["no database", "truncated", "another program's", "newer"])
def test_file_that_is_not_ours_is_left_untouched(path: Path, kind: str, readonly: bool) -> None:
    message = broken(path, kind)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        Store(path, readonly=readonly)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="There is no folder .*nowhere"):
        Store(tmp_path / "nowhere" / "results.sqlite")
    with pytest.raises(StoreError, match="no results at .* yet"):
        Store(tmp_path / "results.sqlite", readonly=True)
    with pytest.raises(StoreError, match="in memory is lost"):
        Store("sqlite://")
    with pytest.raises(StoreError, match="Expected a path or a URL"):
        Store("://results")
    with pytest.raises(StoreError, match="nosuch://x cannot be opened.*nosuch"):
        Store("nosuch://x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("readonly_place", ["file", "folder"])
def test_read_only_file_and_folder(readonly_place: str) -> None:
    """In a child that gives up root's rights, since root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.sqlite"
        with Store(path) as store:
            finished(store)
        before = path.read_bytes()
        os.chmod(folder, 0o555 if readonly_place == "folder" else 0o777)
        os.chmod(path, 0o666 if readonly_place == "folder" else 0o444)
        code = """if True:
            import os, sys, tempfile
            from bench.store import Store, StoreError
            with tempfile.TemporaryDirectory() as warm:  # import everything while that is allowed
                Store(os.path.join(warm, "x")).results()
            if os.geteuid() == 0:
                os.setgid(65534), os.setuid(65534)
            try:
                Store(sys.argv[1])
            except StoreError as error:
                print(error)
            print(len(Store(sys.argv[1], readonly=True).results()), "result")"""
        child = python(code, path)
        out, err = child.communicate()
        os.chmod(folder, 0o755)
        assert "is read-only for this user" in out and "1 result" in out, err
        assert path.read_bytes() == before


def test_file_locked_by_another_writer(path: Path) -> None:
    with Store(path) as store:
        run = unfinished(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with Store(path, busy_seconds=0.05) as second:
            with pytest.raises(StoreError, match=r"locked by another program that writes to it \(waited 0.05 s\)"):
                second.save_batch(run, batch(1), [image(5)])
            assert len(second.images(run)) == 2  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert store.batches(run) == [batch(0)]


def test_new_file_locked_by_another_writer(path: Path) -> None:
    Store(path).close()
    before = path.read_bytes()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked by another program"):
        Store(path, busy_seconds=0.05)
    other.close()
    assert path.read_bytes() == before


def test_at_rest_it_is_one_file_and_reading_leaves_it_alone(path: Path) -> None:
    with Store(path) as store:
        finished(store)
        assert store.query("PRAGMA journal_mode")[1] == [("wal",)]
    before = path.read_bytes()
    with Store(path, readonly=True) as store:
        assert len(store.results()) == 1 and store.query("SELECT COUNT(*) FROM images")[1] == [(4,)]
        with pytest.raises(StoreError, match="was opened for reading only"):
            store.add_cell(CELL)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_killed_in_the_middle_of_a_batch_loses_only_that_batch(path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from sqlalchemy import event
        from bench.store import Store
        from store_data import CELL, PROVENANCE, batch, image
        store = Store(sys.argv[1])
        store.add_cell(CELL)
        run = store.start_run(CELL["key"], **PROVENANCE)
        store.save_batch(run, batch(0), [image(42, 10), image(7, 7)])
        @event.listens_for(store._writer, "after_cursor_execute")
        def killed(connection, cursor, statement, *_):
            if statement.startswith("INSERT INTO images"):
                os.kill(os.getpid(), signal.SIGKILL)
        store.save_batch(run, batch(1), [image(99, 5), image(3, 0)])"""
    child = python(code, path)
    _, err = child.communicate()
    assert child.returncode == -signal.SIGKILL, err
    with Store(path, readonly=True) as store:  # also before anybody has cleaned up
        assert store.batches(1) == [batch(0)]
    with Store(path) as store:
        assert join(store).run_id == 1
        store.save_batch(1, batch(1), [image(99, 5), image(3, 0)])
        store.finish_run(1, **SUMMARY)
        assert store.images(1) == [image(42, 10), image(7, 7), image(99, 5), image(3, 0)]


def test_half_written_transaction_is_taken_back(path: Path) -> None:
    """Without WAL, what a killed writer leaves is a journal that a connection for reading cannot roll back."""
    with Store(path) as store:
        finished(store)
    code = """if True:
        import os, signal, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        connection.execute("PRAGMA cache_size=1")  # spill to the file at once
        connection.execute("UPDATE published SET notes = 'half written'")
        os.kill(os.getpid(), signal.SIGKILL)"""
    python(code, path).communicate()
    assert Path(f"{path}-journal").exists()
    with Store(path, readonly=True) as store:
        assert store.query("SELECT COUNT(*) FROM published WHERE notes = 'half written'")[1] == [(0,)]
        assert store.results()[0]["robust_accuracy"] == 50.0


def test_two_processes_create_and_write_at_once(path: Path) -> None:
    code = """if True:
        import sys
        from bench.store import Store
        from store_data import CELL, batch, image
        with Store(sys.argv[1]) as store:
            store.add_cell(CELL)
            run = store.start_run(CELL["key"])
            for number in range(20):
                store.save_batch(run, batch(number), [image(2 * number), image(2 * number + 1)])"""
    children = [python(code, path) for _ in range(2)]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    with Store(path) as store:
        assert [len(store.images(run["id"])) for run in store.runs_of(KEY)] == [40, 40]
        assert len(store.published()) == len({row["key"] for row in store.published()}) > 800


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "lustre", "cifs"])
def test_sqlite_on_a_network_file_system_is_not_for_several_hosts(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = path.with_name("mounts")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {path.parent} {kind} rw 0 0\n")
    check_shareable(path)
    monkeypatch.setattr("bench.store.network_files.MOUNTS", mounts)
    with pytest.raises(StoreError, match=rf"network file system \({kind}\).*bench merge"):
        check_shareable(path)
    check_shareable("/elsewhere/results.sqlite")
    check_shareable("postgresql://host/name")


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DB", raising=False)
    assert default_url() == "results.sqlite"
    monkeypatch.setenv("BENCH_DB", "postgresql://host/name")
    assert default_url() == "postgresql://host/name"


def test_store_loads_no_network_library() -> None:
    code = "import sys, bench.store; print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    out, err = python(code).communicate()
    assert out == "[]\n", err
