"""Two parts of benchmarks/gpu.py: compiled networks, and start-up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpu_parts import Bench, Row, calls, row
from torch import nn

from defenses.models.compiled import NEAR_LOW, Compiling, compile_classifier, compile_score, compiled_networks
from defenses.models.networks.cifar_resnet import cifar_resnet
from defenses.precision import arithmetic

ROOT = Path(__file__).resolve().parents[1]


def compiled(bench: Bench) -> Iterator[Row]:
    """As `rates`, of networks compiled as `--compile` does it; the first call, which compiles, is timed by itself."""
    rows, compiling = (4, Compiling("aot_eager")) if bench.tiny else (256, Compiling())
    yield from _compiled_classifier(bench, rows, compiling)
    for precision in reversed(bench.precisions()[-1 if bench.tiny else 0 :]):
        bench.check(30)
        near = None if precision == "float32" else NEAR_LOW
        score = compile_score(bench.scores(precision), compiling, near=near)
        x, begin = 2 * bench.images(rows) - 1, time.perf_counter()
        told = {"precision": precision, "rows": rows, "compiled": True}
        with arithmetic(precision):
            calls(score, x, gradient=True)()
            bench.wait()
            failed = [network.failed for network in compiled_networks(score) if network.failed is not None]
            if failed:  # what follows would be the eager network's
                yield row(f"not compiled, {precision}: {failed[0]}", "", [0.0], kind="failed", **told)
                continue
            yield row(f"compiling, {precision}", "s", [time.perf_counter() - begin], kind="compiling", **told)
            for kind, gradient in (("step", True), ("call", False)):
                taken = bench.seconds(calls(score, x, gradient=gradient), repeats=3, most=4.0)
                what = f"{kind}, compiled, {precision}, {rows} rows"
                yield row(what, "rows/s", [rows / s for s in taken], kind=kind, **told)


def _compiled_classifier(bench: Bench, rows: int, compiling: Compiling) -> Iterator[Row]:
    """The gradient of a ResNet-56, eager and compiled, in float32, as classifiers always are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        eager = cifar_resnet(8 if bench.tiny else 56)
    eager = eager.eval().requires_grad_(False).to(bench.device)
    x = bench.images(rows)
    for words, network in (("eager", eager), ("compiled", compile_classifier(eager, compiling))):

        def gradient(network: nn.Module = network) -> None:
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(network(leaf).sum(), leaf)

        taken = bench.seconds(gradient, repeats=3, most=4.0)
        if any(part.failed is not None for part in compiled_networks(network)):
            words = f"{words}, but ran eagerly"
        yield row(f"classifier, gradient, {words}, {rows} rows", "rows/s", [rows / s for s in taken], kind="classifier")


def start_up(bench: Bench) -> Iterator[Row]:
    """Seconds of a new process: until the device has computed something, and of a whole `bench run` of one cell."""
    name = "cuda" if bench.device.type == "cuda" else "cpu"
    with TemporaryDirectory() as folder:
        run = ("run", "--grid", "quickstart", "--limit", "1", "--device", name, "--db", f"{folder}/results.sqlite")
        commands = {
            "import torch, first kernel": ("-c", f"import torch; torch.zeros(1, device='{name}').item()"),
            "bench run, one cell, the whole process": ("-m", "bench.cli", *run, "--filter", "defense=undefended"),
        }
        for what, command in commands.items():
            begin = time.perf_counter()
            subprocess.run((sys.executable, *command), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            yield row(what, "s", [time.perf_counter() - begin])
