"""What the benchmarks share: works timed in turn, and their ratios with a spread, as a table and as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], object]
Row = dict[str, Any]


def seconds_in_turn(works: Mapping[str, Work], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in each round; a round runs them all, after one that is not timed.

    The clock is the processor's on a CPU, which others may share, and the wall's on a GPU.

    Args:
        works: name -> what to time.
        device: where it runs.
        repeats: timed rounds.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            begin = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found[name].append(clock() - begin)
    return {name: seconds[1:] for name, seconds in found.items()}


def ratio(what: str, over: Sequence[float], under: Sequence[float], goal: str = "") -> Row:
    """The ratio of two works, round by round: its median, least and greatest.

    Args:
        what: for the table.
        over: seconds of each round.
        under: the same.
        goal: what it should be, as words.
    """
    return measured(what, [a / b for a, b in zip(over, under, strict=True)], goal)


def measured(what: str, values: Sequence[float], goal: str = "") -> Row:
    """A quantity: its median, least and greatest.

    Args:
        what: for the table, with its unit.
        values: of each round, or picture.
        goal: what it should be, as words.
    """
    return {"what": what, "value": statistics.median(values), "low": min(values), "high": max(values), "goal": goal}


def show(rows: Sequence[Row], settings: Mapping[str, Any], file: Path | None) -> None:
    """Print the table, and write it as JSON.

    Args:
        rows: of `ratio`.
        settings: what was run, for the head and the file.
        file: the JSON; None prints it.
    """
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in {**settings, **machine}.items()))
    for row in rows:
        goal = f"  (goal {row['goal']})" if row["goal"] else ""
        print(f"{row['what']:58} {row['value']:7.3f}  [{row['low']:.3f}, {row['high']:.3f}]{goal}")
    text = json.dumps({**settings, **machine, "rows": list(rows)}, indent=1)
    if file is None:
        print(text)
    else:
        file.write_text(text, encoding="utf-8")
