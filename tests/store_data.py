"""A small cell, its batches and images, and new databases, for the tests of the store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from bench.records import BatchRecord, ImageRecord
from bench.store import Store

CELL: dict[str, Any] = {
    "key": "00112233aabbccdd",
    "dataset": "digits",
    "classifier": "plain",
    "score": "mlp",
    "defense": "diffpure_sde",
    "defense_version": 1,
    "defense_params": {"t": 0.1, "steps": 100},
    "attack": "pgd_eot",
    "attack_version": 1,
    "attack_params": {"steps": 20, "eot": 4},
    "norm": "Linf",
    "epsilon": 8 / 255,
    "gradient": "exact",
    "tier": "quick",
    "num_images": 4,
    "data_seed": 0,
    "balanced": False,
    "batch_size": 2,
    "draws": 10,
    "seed": 0,
    "grid": "quickstart",
    "published_key": None,
}
PROVENANCE: dict[str, Any] = {
    "commit_hash": "abc",
    "dirty": False,
    "device": "cpu",
    "precision": "float32",
    "weights": {"plain": "12ab"},
    "batch_size": 2,
}
SUMMARY: dict[str, Any] = {
    "clean_accuracy": 100.0,
    "robust_accuracy": 50.0,
    "robust_low": 15.0,
    "robust_high": 85.0,
    "gates": [{"gate": "noise", "passed": True, "reason": "noise is weaker", "value": 0.5}],
}


def image(index: int, correct: int = 7, other: int = 1, **changes: Any) -> ImageRecord:
    """Image `index` with label 3: of 10 draws, `correct` say so when attacked and the rest say `other`."""
    fields: dict[str, Any] = {
        "index": index,
        "label": 3,
        "clean_votes": {3: 10},
        "robust_votes": {label: n for label, n in ((3, correct), (other, 10 - correct)) if n},
        "null_votes": {3: 9, 8: 1},
        "distance": 8 / 255,
        "broken_by": "apgd",
        "first_success": False,
        "null_first_success": True,
    }
    return ImageRecord(**{**fields, **changes})


def batch(number: int) -> BatchRecord:
    """Batch `number`, half a second and 40 network evaluations."""
    curve = [{"attack": "pgd", "step": 0, "loss": 0.25, "accuracy": 1.0, "images": 2}]
    return BatchRecord(number=number, seconds=0.5, network_evaluations=40, curve=curve)


def save_all(store: Store, run: int) -> None:
    """Both batches of the cell, with 10, 7, 5 and 0 right draws of 10."""
    store.save_batch(run, batch(0), [image(42, 10), image(7, 7)])
    store.save_batch(run, batch(1), [image(99, 5), image(3, 0)])


def finished(store: Store, **summary: Any) -> int:
    """A finished run of the cell."""
    store.add_cell(CELL)
    run = store.start_run(CELL["key"], **PROVENANCE)
    save_all(store, run)
    store.finish_run(run, **{**SUMMARY, **summary})
    return run


SERVER = os.environ.get("BENCH_TEST_POSTGRES")
DATABASES = ["sqlite", "postgresql"]


@contextmanager
def fresh_url(kind: str, path: Path) -> Iterator[str]:
    """Where a new database can be made: `path`, or on the PostgreSQL server that $BENCH_TEST_POSTGRES names."""
    if kind == "sqlite":
        yield str(path)
        return
    if not SERVER:
        pytest.skip("no PostgreSQL: start one with tests/services/postgres.sh, which sets BENCH_TEST_POSTGRES")
    url, name = make_url(SERVER).set(drivername="postgresql+psycopg"), f"bench_{uuid.uuid4().hex[:12]}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
