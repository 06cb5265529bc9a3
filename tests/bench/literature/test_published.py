"""The literature: the csv is the reference, the table is the csv, and the database that ships holds it."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from store_data import CELL

from bench.epsilon import parse_epsilon
from bench.literature.publish import CSV, RENAMED, read_published
from bench.store import Store, make_database

ROOT = Path(__file__).resolve().parents[3]
CITED = tuple(
    name
    for name in read_published()[0]
    if name not in ("key", "epsilon") and not name.startswith(("attack_", "attacker_", "metric"))
)


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def as_text(value: Any) -> Any:
    return "" if value is None else value


def assert_is_the_csv(rows: list[dict[str, Any]]) -> None:
    """Every field of every line: numbers as numbers, the rest verbatim, an empty field as NULL."""
    header, *body = lines(CSV)
    stored = {row["key"]: row for row in rows}
    assert sorted(stored) == sorted(line[0] for line in body)
    for line in body:
        row = stored[line[0]]
        for name, field in zip(header, line, strict=True):
            value = as_text(row[RENAMED.get(name, name)])
            assert value == (float(field) if isinstance(value, (int, float)) else field)
        assert row["epsilon"] == parse_epsilon(row["eps"])


def test_csv_is_the_reference_with_a_key_in_front_and_our_columns_behind(shared: Path) -> None:
    reference = [shared / "reference" / name for name in ("published.csv", "published_2026.csv")]
    if not all(file.is_file() for file in reference):
        pytest.skip(f"no reference tables in {shared / 'reference'}")
    first, second = map(lines, reference)
    assert first[0] == second[0]
    assert [line[1 : 1 + len(CITED)] for line in lines(CSV)] == first + second[1:]


def test_keys_number_the_rows_of_a_source() -> None:
    seen: dict[str, int] = {}
    for row in read_published():
        seen[row["source_key"]] = seen.get(row["source_key"], 0) + 1
        assert row["key"] == f"{row['source_key']}-{seen[row['source_key']]}"


def test_every_number_has_its_source() -> None:
    for row in read_published():
        assert row["source_title"] and row["found_in"] and row["confidence"]
        for name in ("standard_acc", "robust_acc"):
            assert row[name] is None or 0 <= row[name] <= 100


def test_epsilon() -> None:
    assert parse_epsilon("8/255") == 8 / 255
    assert (parse_epsilon("0.5"), parse_epsilon("12"), parse_epsilon("not_stated")) == (0.5, 12.0, None)


def test_new_database_holds_the_csv(tmp_path: Path) -> None:
    make_database(tmp_path / "results.sqlite")
    with Store(tmp_path / "results.sqlite") as store:
        assert_is_the_csv(store.published())


def test_refresh_corrects_and_adds_and_deletes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.add_cell({**CELL, "published_key": "nie2022diffpure-2"})
        with store._writing() as connection:
            connection.execute(text("UPDATE published SET robust_acc = 1 WHERE key = 'nie2022diffpure-2'"))
            connection.execute(text("DELETE FROM published WHERE key = 'nie2022diffpure-1'"))
            connection.execute(text("UPDATE published SET key = 'withdrawn-1' WHERE key = 'bai2024contrastive-1'"))
    make_database(tmp_path / "results.sqlite")
    with Store(tmp_path / "results.sqlite") as store:
        rows = store.published()
        assert "withdrawn-1" in {row["key"] for row in rows}
        assert_is_the_csv([row for row in rows if row["key"] != "withdrawn-1"])
        assert store.cell(CELL["key"])["published_key"] == "nie2022diffpure-2"


def test_shipped_database(tmp_path: Path) -> None:
    """As committed, it holds the csv in one small file at rest and no quickstart result: a fresh clone really runs."""
    show = ["git", "-C", str(ROOT), "show", "HEAD:results.sqlite"]  # the file itself may hold this user's runs by now
    try:
        content = subprocess.run(show, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git history with results.sqlite here: this is no clone")
    assert len(content) < 8_000_000
    assert (content[18], content[19]) == (1, 1), "in WAL mode: refresh it with `python -m bench.store results.sqlite`"
    (tmp_path / "shipped.sqlite").write_bytes(content)
    with Store(tmp_path / "shipped.sqlite", readonly=True) as store:
        assert_is_the_csv(store.published())
        assert store.query("SELECT COUNT(*) FROM cells WHERE grid = 'quickstart'")[1] == [(0,)]
