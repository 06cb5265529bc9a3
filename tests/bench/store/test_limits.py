"""A query of a person's reads one database, for a while, and gives back a part where there is no end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.store import Store, StoreError

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT "


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with Store(tmp_path / "r.sqlite"):
        pass
    return tmp_path / "r.sqlite"


def test_rows_without_end_stop_at_the_limit(db: Path) -> None:
    found = CliRunner().invoke(
        main, ["query", ENDLESS + "x FROM c", "--db", str(db), "--limit", "3", "--format", "csv"]
    )
    assert found.exit_code == 0 and found.stdout.split() == ["x", "1", "2", "3"]
    assert "Only the first 3 rows" in found.stderr
    all_of_them = CliRunner().invoke(main, ["query", ENDLESS + "x FROM c LIMIT 3", "--db", str(db), "--limit", "3"])
    assert all_of_them.exit_code == 0 and not all_of_them.stderr


def test_a_search_without_end_stops_in_time(db: Path) -> None:
    begin = time.monotonic()
    found = CliRunner().invoke(main, ["query", ENDLESS + "count(*) FROM c", "--db", str(db), "--timeout", "0.3"])
    assert time.monotonic() - begin < 10 and found.exit_code == 2
    assert "stopped after 0.3 s" in found.stderr and "--timeout" in found.stderr


@pytest.mark.parametrize(
    "sql", ["ATTACH '{new}' AS n", "ATTACH 'file:{new}?mode=rwc' AS n", "VACUUM INTO '{new}'", "ATTACH '{old}' AS n"]
)
def test_no_other_file_is_opened_or_made(db: Path, tmp_path: Path, sql: str) -> None:
    (tmp_path / "old.sqlite").touch()
    before = {path.name for path in tmp_path.iterdir()}
    asked = sql.format(new=tmp_path / "new.sqlite", old=tmp_path / "old.sqlite")
    found = CliRunner().invoke(main, ["query", asked, "--db", str(db)])
    assert found.exit_code == 2 and ("this database alone" in found.stderr or "VACUUM" in found.stderr)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_other_readers_have_no_limits(db: Path) -> None:
    with Store(db, readonly=True) as store:
        assert len(store.query(ENDLESS + "x FROM c LIMIT 200000")[1]) == 200_000
        with pytest.raises(StoreError, match="no such column"):
            store.query("SELECT nowhere FROM cells", seconds=5)
