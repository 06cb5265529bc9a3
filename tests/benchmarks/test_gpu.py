"""`benchmarks/gpu.py` on a CPU with thin networks: what it measures, and that a second call continues."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["cell", "rates", "headline", "cosines"]


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    for name in (spec.name, "gpu_parts", "gpu_compiled"):
        sys.modules.pop(name, None)


def call(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, path: Path, *parts: str, minutes: float = 5) -> Any:
    given = ["gpu.py", "--device", "cpu", "--tiny", "--output", str(path), "--minutes", str(minutes), "--only", *parts]
    monkeypatch.setattr(sys, "argv", given)
    gpu.main()
    return json.loads(path.read_text())


def test_one_call_measures_and_a_second_continues(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    call(gpu, monkeypatch, path, "cell", "rates", minutes=0.001)
    first = json.loads(path.read_text())
    assert first["finished"] == ["headline"] and not first["parts"].get(
        "rates"
    )  # there was no time: nothing is made up
    found = call(gpu, monkeypatch, path, *PARTS)
    assert set(PARTS) <= set(found["finished"])
    rates = {row["what"]: row for row in found["parts"]["rates"]}
    assert {row["precision"] for row in rates.values()} == {"float32", "bfloat16"}
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in rates.values())
    same = [row for row in found["parts"]["cell"] if "equal" in row]
    assert len(same) == 2 and same[0]["value"] == 0 and same[0]["equal"]  # float32 on the very CPU
    cosines = {row["what"]: row["value"] for row in found["parts"]["cosines"]}
    low, other = (cosines[f"cosine with float32: {w}"] for w in ("bfloat16, same draw", "float32, another draw"))
    assert 0.99 < low < 1 and other < low
    hours = [row for row in found["parts"]["headline"] if row["precision"] == "float32"]
    step = max(row["value"] for row in rates.values() if row["kind"] == "step" and row["precision"] == "float32")
    assert hours[0]["value"] > 64 * 4040 * 100 / step / 3600
    capsys.readouterr()
    again = call(gpu, monkeypatch, path, *PARTS)
    assert again["parts"]["rates"] == found["parts"]["rates"] and "rows/s" in capsys.readouterr().out


def test_a_file_of_another_machine_is_left_alone(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"machine": {"device": "H100"}, "parts": {}}))
    with pytest.raises(SystemExit, match="Give another --output"):
        call(gpu, monkeypatch, path, "noise")
    assert json.loads(path.read_text())["machine"] == {"device": "H100"}


def test_rows_of_a_part_that_was_stopped_are_kept(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = gpu.Bench(gpu.torch.device("cpu"), True, float("inf"))
    report = gpu.Report.open(tmp_path / "gpu.json", {"device": "x"})
    asked: list[int] = []

    def stopped(bench: Any) -> Any:
        asked.append(len(bench.done["rates"]))
        yield {"what": f"row {len(asked)}", "value": 1.0, "low": 1.0, "high": 1.0, "unit": ""}
        if len(asked) == 1:
            raise gpu.OutOfTime

    monkeypatch.setitem(gpu.PARTS, "rates", stopped)
    gpu.run_part(bench, report, "rates")
    assert not report.state["finished"] and "not finished" in report.table()
    gpu.run_part(bench, report, "rates")
    assert asked == [0, 1] and report.state["finished"] == ["rates"] and len(report.state["parts"]["rates"]) == 2
