"""Migrations: they lead to the schema of the models, each happens whole or not at all, and results survive them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, inspect, text, update
from store_data import CELL, DATABASES, finished, fresh_url

from bench.statistics import summarize
from bench.store import Store, StoreError
from bench.store.database import connect, parse_url
from bench.store.migrations import MIGRATIONS, migrate, read_version
from bench.store.schema import Base, BatchRow, ImageRow


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path / "results.sqlite") as address:
        yield address


def writer(url: str) -> Engine:
    return connect(parse_url(url), readonly=False, busy_seconds=1.0)


def as_after(url: str, number: int, *changes: str) -> None:
    """Make a database one that ended with migration `number`, with what that version would have stored."""
    with writer(url).begin() as connection:
        names = [column["name"] for column in inspect(connection).get_columns("published")]
        ours = names[names.index("notes") + 1 :] if number < 6 else ["attacker_gradient"] if number < 10 else []
        gone = ["DROP VIEW results"] if number < 12 else []
        gone += [f"ALTER TABLE published DROP COLUMN {name}" for name in ours]
        if number < 7:
            gone += ["ALTER TABLE runs DROP COLUMN failures", "DROP TABLE claims"]
            gone += [f"ALTER TABLE batches DROP COLUMN {name}" for name in ("device", "stored_at")]
        if number < 8:
            gone += [f"ALTER TABLE runs DROP COLUMN rounded_{name}" for name in ("accuracy", "low", "high")]
            gone += [f"ALTER TABLE batches DROP COLUMN {name}" for name in ("evidence", "evidence_sha256")]
            gone += [f"ALTER TABLE images DROP COLUMN {name}" for name in ("rounded_votes", "rounded_correct")]
        if number < 9:
            gone.append("DROP TABLE grids")
        if number < 11:
            gone.append("ALTER TABLE cells DROP COLUMN attack_precision")
        if number < 12:
            gone.append("ALTER TABLE cells DROP COLUMN noise")
        if number < 13:
            memory = ("peak_bytes", "device_bytes", "operations")
            gone += [f"ALTER TABLE batches DROP COLUMN {name}" for name in memory]
        for change in (f"DELETE FROM migrations WHERE number > {number}", *gone, *changes):
            connection.execute(text(change))


def m_next(connection: Connection) -> None:
    """What a later version might do."""
    connection.execute(text("ALTER TABLE runs ADD COLUMN energy DOUBLE PRECISION"))


def m_broken(connection: Connection) -> None:
    m_next(connection)
    connection.execute(text("ALTER TABLE no_such_table ADD COLUMN x INTEGER"))


@pytest.fixture
def newer_program() -> Iterator[None]:
    MIGRATIONS.append(m_next)
    yield
    MIGRATIONS.remove(m_next)


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=str)
def test_migrations_lead_to_the_models(url: str, table: object) -> None:
    """Names, types, NULL, primary and foreign keys and indexes: the migrated table is the model's."""
    migrate(writer(url))
    engine, model = writer(url), Base.metadata.tables[str(table)]
    seen = inspect(engine)
    stored = [(c["name"], str(c["type"].compile(engine.dialect)), c["nullable"]) for c in seen.get_columns(model.name)]
    # SQLite lets a text primary key be NULL unless told otherwise; SQLAlchemy tells it
    assert stored == [(c.name, c.type.compile(engine.dialect), c.nullable) for c in model.columns]
    assert seen.get_pk_constraint(model.name)["constrained_columns"] == [c.name for c in model.primary_key]
    keys = {(*k["constrained_columns"], k["referred_table"]) for k in seen.get_foreign_keys(model.name)}
    assert keys == {(*k.column_keys, k.referred_table.name) for k in model.foreign_key_constraints}
    assert {i["name"] for i in seen.get_indexes(model.name)} == {i.name for i in model.indexes}


def test_each_is_recorded_once(url: str) -> None:
    for _ in range(2):
        migrate(writer(url))
    with writer(url).connect() as connection:
        assert read_version(connection) == len(MIGRATIONS)
        names = connection.execute(text("SELECT number, name FROM migrations ORDER BY number")).all()
    assert names == [(number, step.__name__) for number, step in enumerate(MIGRATIONS, start=1)]


def test_old_database_is_migrated_and_keeps_its_results(url: str, request: pytest.FixtureRequest) -> None:
    with Store(url) as store:
        run = finished(store)
        before = (store.results(), store.images(run))
    request.getfixturevalue("newer_program")
    with pytest.raises(
        StoreError, match=f"has schema number {len(MIGRATIONS) - 1}, this version needs {len(MIGRATIONS)}"
    ):
        Store(url, readonly=True)
    with Store(url) as store:
        assert (store.results(), store.images(run)) == before
        assert store.query("SELECT energy FROM runs")[1] == [(None,)]
        assert store.query("SELECT COUNT(*) FROM results")[1] == [(1,)]
        assert store.query("SELECT COUNT(*) FROM migrations")[1] == [(len(MIGRATIONS),)]


def test_failing_migration_leaves_nothing_behind(url: str) -> None:
    with Store(url) as store:
        finished(store)
        before = store.results()
    with pytest.raises(Exception, match="no_such_table"):
        migrate(writer(url), [*MIGRATIONS, m_broken])
    with Store(url) as store:
        assert store.results() == before
        assert store.cell(CELL["key"])["attack"] == "pgd_eot"
        assert store.query("SELECT COUNT(*) FROM migrations")[1] == [(len(MIGRATIONS),)]
        with pytest.raises(StoreError, match="energy"):
            store.query("SELECT energy FROM runs")


def test_postgresql_too(tmp_path: Path) -> None:
    """One skip that speaks for all: the tests of the store run on PostgreSQL where there is a server."""
    if "postgresql" not in DATABASES:
        pytest.skip("tested on SQLite only: set BENCH_TEST_POSTGRES to a PostgreSQL server that may create databases")
    with fresh_url("postgresql", tmp_path) as address, Store(address) as store:
        assert store.query("SELECT version()")[1][0][0].startswith("PostgreSQL")


def test_older_program_refuses(url: str, request: pytest.FixtureRequest) -> None:
    migrate(writer(url), [*MIGRATIONS, m_next])
    known = len(MIGRATIONS)
    message = f"newer version of this program: its schema is number {known + 1}, this version knows {known}"
    with pytest.raises(StoreError, match=message):
        Store(url)


def test_first_success_of_an_older_database_counts_the_last_image(url: str) -> None:
    with Store(url) as store:
        run = finished(store)
        expected = summarize(store.images(run), stochastic=True)
    as_after(url, 2, "UPDATE runs SET first_success_accuracy = 99, null_first_success_accuracy = 100")
    with Store(url) as store:
        (row,) = store.results()
        assert row["null_first_success_accuracy"] == pytest.approx(expected["null_first_success_accuracy"])
        assert row["first_success_accuracy"] == expected["first_success_accuracy"] == 0
    as_after(url, 2, "UPDATE runs SET first_success_accuracy = NULL")
    with Store(url) as store:  # what was never known stays unknown
        assert store.results()[0]["first_success_accuracy"] is None


@pytest.mark.parametrize(("attack", "known"), [("square_eot", False), ("pgd_eot", True)])
def test_what_squares_looks_were_priced_at_in_an_older_database_is_unknown(url: str, attack: str, known: bool) -> None:
    with Store(url) as store:
        run = finished(store, null_first_success_accuracy=50.0)
    as_after(url, 3, f"UPDATE cells SET attack = '{attack}'")
    with Store(url) as store:
        assert (store.results()[0]["null_first_success_accuracy"] is not None) is known
        assert {image.null_first_success for image in store.images(run)} == {True if known else None}


def test_intervals_of_an_older_database_hold_where_few_images_are_wrong(url: str) -> None:
    with Store(url) as store:
        run = finished(store)
        expected = summarize(store.images(run), stochastic=True)
    as_after(url, 4, "UPDATE runs SET clean_low = 99, robust_low = 49, robust_high = 51, null_low = NULL")
    with Store(url) as store:
        (row,) = store.runs_of(CELL["key"])
    for name in ("clean_low", "robust_low", "robust_high"):
        assert row[name] == pytest.approx(expected[name])
    assert row["null_low"] is None  # what was never known stays unknown


def test_published_attacks_of_an_older_database_get_their_columns(url: str) -> None:
    with Store(url) as store:
        finished(store)
        before, results = store.published(), store.results()
    as_after(url, 5)
    with Store(url) as store:
        assert store.published() == before and store.results() == results
        assert {row["attack_name"] for row in before} > {None, "pgd_eot", "autoattack"}


def test_published_numbers_of_an_older_database_learn_what_their_attack_differentiated(url: str) -> None:
    with Store(url) as store:
        finished(store)
        before, results = store.published(), store.results()
    as_after(url, 9)
    with Store(url) as store:
        assert store.published() == before and store.results() == results
        assert {row["attacker_gradient"] for row in before} > {None, "exact", "identity", "transfer"}


def test_a_migration_that_was_killed_before_it_filled_the_columns_is_finished(url: str) -> None:
    with Store(url) as store:
        before = store.published()
    as_after(url, 5)
    migrate(writer(url))  # the columns are there, empty
    with Store(url) as store:
        assert store.published() == before


def test_curves_of_an_older_database_are_packed(url: str) -> None:
    """What m001 kept as one entry a step reads back the same."""
    curve = [
        *({"attack": "pgd", "step": i, "loss": i / 4, "accuracy": 0.5, "images": 2} for i in range(3)),
        {"attack": "square", "step": 0, "loss": None, "accuracy": 0.0, "images": 1},
    ]
    with Store(url) as store:
        run = finished(store)
    as_after(url, 1)
    with writer(url).begin() as connection:
        connection.execute(BatchRow.__table__.update().values(curve=curve))
    with Store(url) as store:
        assert [batch.curve for batch in store.batches(run)] == [curve, curve]
        (kept,) = set(map(str, store.query("SELECT curve FROM batches")[1]))
        assert kept.count("step") == 2  # one for each attack


def test_votes_and_curves_of_an_older_database_take_fewer_characters(url: str) -> None:
    """What m013 kept in full reads back the same, but for the dropped digits and steps, and is stored anew."""
    with Store(url) as store:
        run = finished(store)
        images = store.images(run)
    votes = ("clean_votes", "robust_votes", "null_votes", "rounded_votes")
    as_after(url, 13)
    curve = [{"attack": "pgd", "images": 2, "accuracy": [0.123456] * 40, "loss": [None] * 40, "step": [*range(40)]}]
    with writer(url).begin() as connection:
        connection.execute(update(BatchRow).values(curve=curve))
        for image in images:
            full = {name: getattr(image, name) for name in votes}
            full = {
                name: None if value is None else {str(k): n for k, n in value.items()} for name, value in full.items()
            }
            connection.execute(update(ImageRow).where(ImageRow.image_index == image.index).values(full))
        wrong = update(ImageRow).where(ImageRow.image_index == images[-1].index)
        connection.execute(wrong.values(null_votes={"3": 9}))  # of 10 draws: stays a doubt of `bench verify`
    with Store(url) as store:
        rows = store.image_rows(run)
        assert [[row[name] for name in votes] for row in rows[:-1]] == [
            [getattr(image, name) for name in votes] for image in images[:-1]
        ]
        assert rows[-1]["null_votes"] == {3: 9}
        kept = dict(store.query("SELECT image_index, clean_votes FROM images")[1])
        assert {str(value) for value in kept.values()} == {"3"}
        points = store.batches(run)[0].curve
        assert {point["accuracy"] for point in points} == {0.1235}
        assert [point["step"] for point in points] == [*range(0, 39, 3), 39]
