"""docs/schema.md says the truth: every table, column and type both ways, and every query runs and answers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_data import CELL, SUMMARY, batch, finished, image, save_all

from bench.store import Store

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "schema.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
TABLES = {match[1]: section for section in SECTIONS if (match := re.match(r"`(\w+)`", section))}
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
SAME_TYPE = {"VARCHAR(16)": "TEXT", "VARCHAR(80)": "TEXT", "VARCHAR(8)": "TEXT", "BIGINT": "INTEGER"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two runs: one cell with a published number, another with a failure after it."""
    with Store(tmp_path / "results.sqlite") as opened:
        known = next(row["key"] for row in opened.published() if row["robust_acc"] is not None)
        opened.add_cell({**CELL, "published_key": known})
        run = opened.start_run(CELL["key"])
        save_all(opened, run)
        opened.finish_run(run, **SUMMARY)
        opened.add_cell({**CELL, "key": "ff00", "seed": 1})
        second = opened.start_run("ff00")
        opened.save_batch(second, batch(0), [replace(image(42, 5), broken_by=None), image(1, 1)])
        opened.fail_run(second, MemoryError("out of memory"), remedy="a smaller batch")
        yield opened


def documented(table: str) -> list[tuple[str, str]]:
    rows = re.findall(r"^\| (\w+) \| ([A-Z]+\??) \| (.+) \|$", TABLES[table], flags=re.MULTILINE)
    return [(name, kind) for name, kind, _ in rows]


def stored_tables(path: Path) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute(query)}


def stored_columns(path: Path, table: str) -> list[tuple[str, str, bool]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return [(name, SAME_TYPE.get(kind, kind), not required) for _, name, kind, required, *_ in rows]


def test_every_table_is_documented(store: Store, tmp_path: Path) -> None:
    assert set(TABLES) == stored_tables(tmp_path / "results.sqlite")


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_column_is_documented_with_its_type(store: Store, tmp_path: Path, table: str) -> None:
    stored = stored_columns(tmp_path / "results.sqlite", table)
    if table == "results":  # SQLite does not say which columns of a view may be NULL
        stored = [(name, kind, dict(documented(table)).get(name, "").endswith("?")) for name, kind, _ in stored]
    assert documented(table) == [(name, kind + "?" * optional) for name, kind, optional in stored]


@pytest.mark.parametrize("sql", QUERIES)
def test_queries_answer(store: Store, sql: str) -> None:
    columns, rows = store.query(sql)
    assert columns and rows


def test_queries_follow_the_protocol(store: Store) -> None:
    """Right draws of 10 are 10, 7, 5 and 0, the rest all for one other label."""
    answers = {}
    for sql in QUERIES:
        columns, rows = store.query(sql)
        answers.update(dict(zip(columns, rows[0], strict=True)))
    assert answers["single_draw"] == pytest.approx((100 + 70 + 50 + 0) / 4) == 55.0
    assert answers["vote"] == 50.0  # 5 to 5 is a tie: against the defense
    assert answers["worst_of_2"] == pytest.approx(100 * (1 + 42 / 90 + 20 / 90) / 4)
    assert answers["worst_of_all"] == 25.0
    assert (answers["label"], answers["answer"], answers["answers"]) == (3, 1, 3 + 5 + 10)
    assert (answers["first"], answers["second"]) == (10, 5)
    assert answers["remedy"] == "a smaller batch"


def test_view_matches_the_documented_vote_of_a_fresh_run(tmp_path: Path) -> None:
    """A finished run under another key does not disturb the first one's numbers."""
    with Store(tmp_path / "results.sqlite") as store:
        finished(store)
        finished(store)
        assert [row["run_id"] for row in store.results()] == [2]
        (row,) = store.query(QUERIES[2])[1]
        assert row == (CELL["key"], 55.0)
