"""Environment variables in place of options: all of them are listed, and each works."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner, Result

from bench.cli import main
from bench.commands.options import environment_variables

ROOT = Path(__file__).parents[3]


def bench(*arguments: object, **variables: str) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=variables)


def test_the_help_lists_every_variable_that_the_code_reads() -> None:
    text = "".join(path.read_text() for room in ("bench", "defenses") for path in (ROOT / room).rglob("*.py"))
    read = set(re.findall(r"[\"'](BENCH_[A-Z_]+)[\"']", text))
    assert read == {name for name in environment_variables(main) if name.startswith("BENCH_")} and len(read) >= 6
    shown = bench("--help").output
    assert not [name for name in read if name not in shown] and "BENCH_<VERB>_<OPTION>" in shown


def test_variables_stand_for_options_and_the_command_line_comes_first(tmp_path: Path) -> None:
    grid = {"BENCH_RUN_FILTER": "defense=undefended", "BENCH_RUN_NUM_IMAGES": "3", "BENCH_DB": str(tmp_path / "r.db")}
    shown = bench("run", "--dry-run", BENCH_DEVICE="abacus", **grid)
    assert shown.exit_code == 2 and "got 'abacus'" in shown.output
    shown = bench("run", "--dry-run", "--device", "cpu", BENCH_DEVICE="abacus", **grid)
    assert shown.exit_code == 0 and "undefended" in shown.output and "contrastive" not in shown.output
    other = bench("run", "--dry-run", "--device", "cpu", "--filter", "defense=undefended", "--num-images", 3)
    assert shown.output.split()[0] == other.output.split()[0]  # the cell's key
