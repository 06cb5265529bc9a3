"""Everything that is to be known of one card, in one call of under nine minutes: offline, random full-size weights.

    python benchmarks/gpu.py --output gpu.json              # a second call continues where the first one stopped
    python benchmarks/gpu.py --device cpu --tiny            # thin networks, seconds: does it run at all

Parts, the most important first: a real digits cell here and on the CPU; evaluations a second by precision and rows;
what the headline cell costs at that rate; memory a row; gradients in low precision beside float32's; purifier and
gradient over bare network calls; exact gradients beside the adjoints; draws in one batch; noise; start-up; compiled
networks. The file is written after every part. The network is score_sde's DDPM++ deep with random weights: times and
memory are those of the trained one, cosines and accuracies are not, but for the digits cell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_parts  # noqa: E402
from gpu_compiled import compiled, start_up  # noqa: E402
from gpu_parts import Bench, OutOfTime, Row  # noqa: E402

from bench.run.provenance import name_device  # noqa: E402
from defenses.precision import arithmetic  # noqa: E402

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    **{name: getattr(gpu_parts, name) for name in ("cell", "rates", "headline", "memory", "cosines", "overhead")},
    **{name: getattr(gpu_parts, name) for name in ("adjoints", "draws", "noise")},
    **{"start_up": start_up, "compiled": compiled},
}
DERIVED = ("headline",)  # follows from other parts: made anew after them
APART = ("compiled",)  # a compiler may take minutes: in a process that can be ended
CONTINUED = ("rates",)  # keeps the rows of a call that was stopped
SPARE = 15.0  # seconds that a part must have left to begin


@dataclass
class Report:
    """The file.

    Attributes:
        path: where it lies.
        state: `machine`; `finished`, names of parts; `parts`, their rows; `seconds` that they took.
    """

    path: Path
    state: dict[str, Any]

    @classmethod
    def open(cls, path: Path, machine: dict[str, Any]) -> Report:
        """Continue a file of this machine, or begin one."""
        state = json.loads(path.read_text()) if path.exists() else {"machine": machine}
        if state["machine"] != machine:
            raise SystemExit(f"{path} is of {state['machine']}, this is {machine}. Give another --output.")
        return cls(path, {"finished": [], "parts": {}, "seconds": {}} | state)

    def save(self) -> None:
        """Write it whole."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1))
        new.replace(self.path)

    def table(self) -> str:
        """What is known so far, a line a row."""
        lines = [", ".join(f"{name} {value}" for name, value in self.state["machine"].items())]
        for name in [name for name in PARTS if name in self.state["parts"]]:
            lines.append(f"\n{name}{'' if name in self.state['finished'] else ' (not finished: call again)'}")
            for found in self.state["parts"][name]:
                spread = f"{found['low']:.5g} to {found['high']:.5g}"
                equal = {True: "  equal", False: "  NOT EQUAL"}.get(found.get("equal"), "")
                lines.append(f"  {found['what']:58} {found['value']:12.5g} {found['unit']:10} {spread}{equal}")
        return "\n".join(lines)


def run_part(bench: Bench, report: Report, name: str) -> None:
    """One part, its rows written as they come."""
    rows = report.state["parts"].setdefault(name, [])
    if name not in CONTINUED:
        rows.clear()
    begin = time.monotonic()
    bench.done = report.state["parts"]
    try:
        for found in PARTS[name](bench):
            rows.append(found)
            report.save()
        report.state["finished"] += [name] * (name not in report.state["finished"])
    except OutOfTime:
        pass
    except Exception as error:  # the other parts go on
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    report.state["seconds"][name] = round(time.monotonic() - begin, 1)
    bench.release()
    report.save()


def run_apart(bench: Bench, report: Report, name: str, device: str) -> Report:
    """One part in a process of its own, ended when the time is up."""
    command = [sys.executable, __file__, "--only", name, "--output", str(report.path), "--device", device, "--quiet"]
    command += ["--minutes", str(bench.left / 60), *(["--tiny"] if bench.tiny else [])]
    try:
        subprocess.run(command, timeout=max(1.0, bench.left), check=False)
    except subprocess.TimeoutExpired:
        print(f"{name}: out of time; call again", file=sys.stderr)
    return Report.open(report.path, report.state["machine"])


def main() -> None:
    """See the module."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="a file of this machine is continued")
    parser.add_argument("--minutes", type=float, default=8.5, help="of this call, all of it")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="thin networks: does it run")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    args = parser.parse_args()
    device = torch.device(args.device)
    machine = {"device": name_device(device), "torch": torch.__version__, "tiny": args.tiny}
    bench = Bench(device, args.tiny, begin + 60 * args.minutes)
    report = Report.open(args.output, machine)
    for name in args.only:
        if name in report.state["finished"] and name not in DERIVED:
            continue
        if bench.left < SPARE:
            break
        if name in APART and len(args.only) > 1:
            report = run_apart(bench, report, name, args.device)
        else:
            run_part(bench, report, name)
    for name in DERIVED:
        run_part(bench, report, name)
    if not args.quiet:
        print(report.table())


if __name__ == "__main__":
    with arithmetic():  # what is not said to be in TF32 is float32's
        main()
