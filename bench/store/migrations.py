"""Numbered migrations: a list, a decorator, a table of what has been applied.

A migration is history: it spells out its own columns and never imports the models, so that it always does the same.
To change the schema, edit bench/store/schema.py, append a function here, and describe the columns in docs/schema.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Double,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from bench.store.packing import pack, unpack
from bench.store.schema import results_select

Migration = Callable[[Connection], None]
MIGRATIONS: list[Migration] = []
LOCK = 6_217_004  # the number of our advisory lock in PostgreSQL: any constant does


class SchemaError(ValueError):
    """The database holds another program's tables, or those of a newer version of this one."""


def migration(function: Migration) -> Migration:
    """Register the next migration; its number is its place in the list, from 1."""
    MIGRATIONS.append(function)
    return function


@migration
def m001_initial(connection: Connection) -> None:
    """Cells, runs, batches, images, and the numbers of the literature."""
    tables, json = MetaData(), JSON().with_variant(JSONB(), "postgresql")
    Table(
        "published",
        tables,
        Column("key", String(80), primary_key=True),
        *_columns(Text, "source_key source_title"),
        *_columns(Integer, "year?"),
        *_columns(Text, "source_table dataset classifier defense defense_family norm eps"),
        *_columns(Double, "epsilon?"),
        *_columns(Text, "attack gradient_access"),
        *_columns(Double, "standard_acc? standard_std? robust_acc? robust_std?"),
        *_columns(Integer, "n_images?"),
        *_columns(Text, "found_in confidence notes?"),
        sqlite_with_rowid=False,  # here and below storage alone, before the first release: older files stay as they are
    )
    Table(
        "cells",
        tables,
        Column("key", String(16), primary_key=True),
        *_columns(Text, "dataset classifier score? defense"),
        *_columns(Integer, "defense_version"),
        *_columns(json, "defense_params"),
        *_columns(Text, "attack"),
        *_columns(Integer, "attack_version"),
        *_columns(json, "attack_params"),
        *_columns(Text, "norm"),
        *_columns(Double, "epsilon"),
        *_columns(Text, "gradient tier"),
        *_columns(Integer, "num_images data_seed"),
        *_columns(Boolean, "balanced"),
        *_columns(Integer, "batch_size draws seed"),
        *_columns(Text, "grid?"),
        Column("published_key", String(80), ForeignKey("published.key")),
        *_columns(DateTime, "created_at"),
    )
    Table(
        "runs",
        tables,
        Column("id", Integer, primary_key=True),
        Column("cell_key", String(16), ForeignKey("cells.key"), nullable=False, index=True),
        *_columns(String(8), "status"),
        *_columns(Text, "host?"),
        *_columns(Integer, "pid?"),
        *_columns(DateTime, "started_at finished_at?"),
        *_columns(Double, "seconds?"),
        *_columns(Integer, "batch_size?"),
        *_columns(Double, "clean_accuracy? clean_low? clean_high? robust_accuracy? robust_low? robust_high?"),
        *_columns(Double, "null_accuracy? null_low? null_high? vote_accuracy? worst_accuracy?"),
        *_columns(Double, "first_success_accuracy? null_first_success_accuracy?"),
        *_columns(Text, "commit_hash?"),
        *_columns(Boolean, "dirty?"),
        *_columns(json, "packages?"),
        *_columns(Text, "device? precision?"),
        *_columns(json, "weights? licences? gates?"),
        *_columns(BigInteger, "network_evaluations?"),
        *_columns(Text, "verdict? verdict_reason?"),
        *_columns(json, "notes?"),
        *_columns(Text, "error_class? error_message? remedy? error_traceback?"),
    )
    Table(
        "batches",
        tables,
        Column("run_id", Integer, ForeignKey("runs.id"), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        *_columns(Double, "seconds"),
        *_columns(BigInteger, "network_evaluations"),
        *_columns(json, "curve"),
    )
    Table(
        "images",
        tables,
        Column("run_id", Integer, ForeignKey("runs.id"), primary_key=True),
        Column("image_index", Integer, primary_key=True, autoincrement=False),
        *_columns(Integer, "position batch label draws clean_correct robust_correct null_correct"),
        *_columns(json, "clean_votes robust_votes null_votes"),
        *_columns(Double, "distance"),
        *_columns(Text, "broken_by?"),
        *_columns(Boolean, "first_success? null_first_success?"),
        ForeignKeyConstraint(["run_id", "batch"], ["batches.run_id", "batches.number"]),
        sqlite_with_rowid=False,
    )
    tables.create_all(connection)


@migration
def m002_curves_by_column(connection: Connection) -> None:
    """Convergence curves become a quarter of their text."""
    json = JSON().with_variant(JSONB(), "postgresql")
    batches = Table("batches", MetaData(), *_columns(Integer, "run_id number"), Column("curve", json))
    for run, place, curve in connection.execute(batches.select()).all():
        row = batches.update().where(batches.c.run_id == run, batches.c.number == place)
        connection.execute(row.values(curve=pack(curve)))


@migration
def m003_first_success_counts_the_last_image(connection: Connection) -> None:
    """First-success robustness also asks whether the image that the attack hands over is answered rightly."""
    for look, correct in (("first_success", "robust_correct"), ("null_first_success", "null_correct")):
        share = f"100.0 * AVG(CASE WHEN {look} THEN 1.0 * {correct} / draws ELSE 0.0 END)"
        connection.execute(
            text(
                f"UPDATE runs SET {look}_accuracy = (SELECT {share} FROM images WHERE images.run_id = runs.id) "
                f"WHERE {look}_accuracy IS NOT NULL"
            )
        )


@migration
def m004_looks_are_draws(connection: Connection) -> None:
    """Square asks the same draws at every step, and was priced as if each had been others: that price is unknown."""
    again = "cell_key IN (SELECT key FROM cells WHERE attack = 'square_eot' AND draws > 1)"
    runs = f"SELECT id FROM runs WHERE {again}"
    connection.execute(text(f"UPDATE images SET null_first_success = NULL WHERE run_id IN ({runs})"))
    connection.execute(text(f"UPDATE runs SET null_first_success_accuracy = NULL WHERE {again}"))


@migration
def m005_intervals_near_the_ends(connection: Connection) -> None:
    """The intervals of stochastic defenses where few images are wrong, or right, were too narrow."""
    from bench.statistics import two_level_bootstrap

    query = "SELECT runs.id, cells.seed FROM runs JOIN cells ON cells.key = runs.cell_key WHERE cells.draws > 1"
    for run, seed in connection.execute(text(query)).all():
        for kind in ("clean", "robust", "null"):
            rows = connection.execute(
                text(f"SELECT {kind}_correct, draws FROM images WHERE run_id = :run ORDER BY batch, position"),
                {"run": run},
            ).all()
            if rows:
                correct, draws = zip(*rows, strict=True)
                low, high = two_level_bootstrap(correct, draws, seed=seed)
                change = (
                    f"UPDATE runs SET {kind}_low = :low, {kind}_high = :high WHERE id = :run AND {kind}_low IS NOT NULL"
                )
                connection.execute(text(change), {"low": 100 * low, "high": 100 * high, "run": run})


@migration
def m006_published_attacks_in_columns(connection: Connection) -> None:
    """What an attack of the literature is, in columns: the text alone cannot be compared.

    `Store` fills them from bench/published.csv afterwards; until then no published attack is the same as ours.
    """
    for names, kind in (
        ("attack_name attack_variant", "TEXT"),
        ("attack_steps attack_eot", "INTEGER"),
        ("attack_target attack_several metric metric_stated", "TEXT"),
    ):
        for name in names.split():
            connection.execute(text(f"ALTER TABLE published ADD COLUMN {name} {kind}"))


@migration
def m007_claims(connection: Connection) -> None:
    """Units of runs are claimed by processes; a batch knows its device and when it was stored, a run its failures."""
    time = DateTime().compile(connection.dialect)
    for column in ("runs ADD COLUMN failures INTEGER", "batches ADD COLUMN device TEXT"):
        connection.execute(text(f"ALTER TABLE {column}"))
    connection.execute(text(f"ALTER TABLE batches ADD COLUMN stored_at {time}"))
    tables = MetaData()
    Table("runs", tables, Column("id", Integer, primary_key=True))
    claims = Table(
        "claims",
        tables,
        Column("run_id", Integer, ForeignKey("runs.id"), primary_key=True),
        Column("unit", String(16), primary_key=True),
        *_columns(Text, "token holder process?"),
        *_columns(DateTime, "claimed_at beat_at expires_at"),
        sqlite_with_rowid=False,
    )
    claims.create(connection)


@migration
def m008_evidence(connection: Connection) -> None:
    """Adversarial images are kept, and judged once more as 8-bit pictures; of older runs neither is known."""
    json = connection.dialect.name == "postgresql" and "JSONB" or "JSON"
    double = Double().compile(connection.dialect)
    for column in (
        *(f"runs ADD COLUMN rounded_{name} {double}" for name in ("accuracy", "low", "high")),
        "batches ADD COLUMN evidence TEXT",
        "batches ADD COLUMN evidence_sha256 TEXT",
        f"images ADD COLUMN rounded_votes {json}",
        "images ADD COLUMN rounded_correct INTEGER",
    ):
        connection.execute(text(f"ALTER TABLE {column}"))


@migration
def m009_grids(connection: Connection) -> None:
    """What the tables of a grid look like, and when it ran last: a report then needs neither its file nor torch."""
    json = JSON().with_variant(JSONB(), "postgresql")
    grids = Table(
        "grids",
        MetaData(),
        Column("name", Text, primary_key=True),
        *_columns(Text, "source digest"),
        *_columns(json, "described?"),
        *_columns(DateTime, "ran_at"),
        sqlite_with_rowid=False,
    )
    grids.create(connection)


@migration
def m010_attacker_gradient(connection: Connection) -> None:
    """What the attack behind a published number could differentiate; `Store` fills it from bench/published.csv."""
    connection.execute(text("ALTER TABLE published ADD COLUMN attacker_gradient TEXT"))


@migration
def m011_attack_precision(connection: Connection) -> None:
    """What an attack computed in is part of a cell; all attacks so far computed in float32."""
    connection.execute(text("ALTER TABLE cells ADD COLUMN attack_precision TEXT NOT NULL DEFAULT 'float32'"))


@migration
def m012_noise(connection: Connection) -> None:
    """Whether the attacker knows the noise is part of a cell; no attacker so far did."""
    connection.execute(text("ALTER TABLE cells ADD COLUMN noise TEXT NOT NULL DEFAULT 'fresh'"))


@migration
def m013_memory_and_operations(connection: Connection) -> None:
    """What a batch took at its highest, of how much, and how many operations it did; NULL where nobody measured."""
    double = Double().compile(connection.dialect)
    for column in ("peak_bytes BIGINT", "device_bytes BIGINT", f"operations {double}"):
        connection.execute(text(f"ALTER TABLE batches ADD COLUMN {column}"))


@migration
def m014_fewer_characters(connection: Connection) -> None:
    """Votes that agree become their label, those of rounded images NULL where they are the same; curves lose digits."""
    postgresql = connection.dialect.name == "postgresql"
    connection.execute(text("UPDATE images SET rounded_votes = NULL WHERE rounded_votes = robust_votes"))
    for column in ("clean_votes", "robust_votes", "null_votes", "rounded_votes"):
        each, kind, label = f"json_each({column})", f"json_type({column})", "key"
        if postgresql:
            each, kind, label = f"jsonb_each_text({column})", f"jsonb_typeof({column})", "CAST(key AS JSONB)"
        # the one CASE: to ask for the keys of what is no object is an error in PostgreSQL
        agree = f"SELECT COUNT(*) = 1 AND MIN(CAST(value AS INTEGER)) = draws FROM {each}"
        connection.execute(
            text(
                f"UPDATE images SET {column} = (SELECT {label} FROM {each}) "
                f"WHERE CASE WHEN {kind} = 'object' THEN ({agree}) END"
            )
        )
    json = JSON().with_variant(JSONB(), "postgresql")
    batches = Table("batches", MetaData(), *_columns(Integer, "run_id number"), Column("curve", json))
    for run, place, curve in connection.execute(batches.select()).all():
        row = batches.update().where(batches.c.run_id == run, batches.c.number == place)
        connection.execute(row.values(curve=pack(unpack(curve))))


def _columns(kind: Any, names: str) -> list[Column]:
    """Columns of one type; a name that ends in ? may be NULL."""
    return [Column(name.rstrip("?"), kind, nullable=name.endswith("?")) for name in names.split()]


def read_version(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """The number of the last migration applied, 0 for an empty database.

    Raises:
        SchemaError: the tables are another program's, or a newer version of this program made them.
    """
    names = set(inspect(connection).get_table_names())
    if not names:
        return 0
    if not {"migrations", "cells", "runs", "images", "published"} <= names:
        some = ", ".join(sorted(names)[:5])
        raise SchemaError(f"holds the tables of another program ({some}). Give --db a file of its own.")
    found = connection.execute(text("SELECT MAX(number) FROM migrations")).scalar_one() or 0
    if found > len(migrations):
        raise SchemaError(
            f"was written by a newer version of this program: its schema is number {found}, this version knows "
            f"{len(migrations)}. Upgrade purification-bench, or give --db another file."
        )
    return found


def migrate(engine: Engine, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply what is pending, each migration in one transaction; the view `results` is made anew in the same one."""
    for number, apply in enumerate(migrations, start=1):
        with engine.begin() as connection:
            take_turns(connection)
            if (
                read_version(connection, migrations) < number
            ):  # asked under the lock: another program may have been here
                connection.execute(text("DROP VIEW IF EXISTS results"))
                apply(connection)
                _record(connection, number, apply.__name__)
                if number == len(migrations):
                    create_view(connection)


def take_turns(connection: Connection) -> None:
    """Wait for other writers of the schema or of `cells`; SQLite's transactions do so by themselves."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def create_view(connection: Connection) -> None:
    """Create the view `results` as bench/store/schema.py has it today."""
    query = results_select().compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    connection.exec_driver_sql(f"CREATE VIEW results AS {query}")


def _record(connection: Connection, number: int, name: str) -> None:
    applied = Table(
        "migrations",
        MetaData(),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("name", Text, nullable=False),
        Column("applied_at", DateTime, nullable=False),
    )
    applied.create(connection, checkfirst=True)
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    connection.execute(applied.insert().values(number=number, name=name, applied_at=now))
