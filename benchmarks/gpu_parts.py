"""The parts of benchmarks/gpu.py: each a function of a `Bench` that yields rows, one a measured quantity."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.autoattack_rand import AutoAttackRand
from bench.attacks.base import Oracle
from bench.attacks.momentum_pgd import MomentumPGD
from bench.cell import Cell
from bench.evaluate import evaluate
from bench.run.prepare import Loader
from bench.run.progress import count_judged
from bench.statistics import paired_difference
from bench.threat import ThreatModel
from defenses.attacked import AttackedDefense
from defenses.base import Defended, Purifier
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.memory import is_out_of_memory
from defenses.models.low_precision import in_bfloat16
from defenses.models.networks.unet import DDPMPP_DEEP, Layout, ddpmpp_unet
from defenses.models.score_models import NetworkScore, times
from defenses.noise import Noise
from defenses.precision import Precision, arithmetic, check_device

TINY = Layout(channels=(8, 8), blocks=1, attention=(False, True))
SHAPE = (3, 32, 32)
IMAGES = 64  # of the headline
Row = dict[str, Any]


class OutOfTime(Exception):
    """The rest of a part is for the next call."""


@dataclass
class Bench:
    """What the parts share.

    Attributes:
        device: where they run.
        tiny: thin networks and few rows, to see that everything runs.
        deadline: of this call, by `time.monotonic`.
        done: name of a part -> its rows, of earlier calls too.
    """

    device: torch.device
    tiny: bool
    deadline: float
    done: dict[str, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = ddpmpp_unet(TINY if self.tiny else DDPMPP_DEEP)
        for parameter in network.parameters():  # layers that begin at zero would hide the others
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
        self.score = NetworkScore(network.eval().requires_grad_(False).to(self.device), SHAPE)
        self.low = in_bfloat16(self.score)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def precisions(self) -> list[Precision]:
        """Those that this device has."""
        try:
            check_device("tf32", self.device)
        except ValueError:
            return ["float32", "bfloat16"]
        return ["float32", "tf32", "bfloat16"]

    def scores(self, precision: Precision) -> NetworkScore:
        """The network in a precision."""
        return self.low if precision == "bfloat16" else self.score

    def images(self, rows: int) -> Tensor:
        """(rows, 3, 32, 32) in [0, 1]."""
        return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(2)).to(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 5, most: float = 8.0) -> list[float]:
        """Seconds of several calls after one that warms up; fewer where they take long."""
        found: list[float] = []
        repeats = 1 if self.tiny else repeats
        work()
        self.wait()
        begin = time.perf_counter()
        while not found or (len(found) < repeats and time.perf_counter() - begin < most and self.left > 0):
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return found

    def check(self, seconds: float) -> None:
        """Raise OutOfTime where fewer seconds are left."""
        if self.left < seconds:
            raise OutOfTime

    def wait(self) -> None:
        """For the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Memory that nobody needs any more."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def row(what: str, unit: str, values: list[float], **more: Any) -> Row:
    """A measured quantity: its median and its extremes."""
    ends = {"value": statistics.median(values), "low": min(values), "high": max(values)}
    return {"what": what, "unit": unit, **ends, **more}


def calls(score: NetworkScore, x: Tensor, *, gradient: bool) -> Callable[[], object]:
    """A network call; or one replayed reverse step: a call, and a call with the gradient of its input."""

    def forward() -> None:
        with torch.no_grad():
            score.epsilon(x, times(x, 0.05))

    def step() -> None:
        forward()
        leaf = x.detach().requires_grad_()
        out = score.epsilon(leaf, times(x, 0.05))
        torch.autograd.grad(out, leaf, torch.ones_like(out))

    return step if gradient else forward


def cell(bench: Bench) -> Iterator[Row]:
    """A real cell, here in every precision and on the CPU: the same within the paired interval."""
    wanted = Cell(
        dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=10),
        attack=MomentumPGD(steps=4 if bench.tiny else 40), threat=ThreatModel(epsilon=3 / 16),
        num_images=8 if bench.tiny else 64, draws=4 if bench.tiny else 20,
    )  # fmt: skip

    def right(device: torch.device, precision: Precision) -> tuple[Any, Any]:
        ready = Loader(device).prepare(wanted.attacked_in(precision))
        images, labels, ids = ready.batch(slice(0, wanted.num_images))
        found = evaluate(
            ready.attacked(), wanted.attack, images, labels, ids, wanted.threat, draws=wanted.draws, seed=0
        )
        records = sorted(found, key=lambda record: record.index)
        return [r.robust_correct for r in records], [r.draws for r in records]

    there = [np.array(part) for part in right(torch.device("cpu"), "float32")]
    yield row("robust accuracy on the CPU, float32", "%", [100 * float((there[0] / there[1]).mean())])
    for precision in bench.precisions():
        here = [np.array(part) for part in right(bench.device, precision)]
        difference, low, high = (100 * value for value in paired_difference(*here, *there))
        own = 100 * float((here[0] / here[1]).mean())
        yield row(f"robust accuracy here, {precision}", "%", [own], precision=precision)
        equal = {"precision": precision, "equal": bool(low <= 0 <= high)}
        told = row(f"minus the CPU's, {precision}", "points", [difference])
        yield told | {"low": low, "high": high, **equal}


def rates(bench: Bench) -> Iterator[Row]:
    """Rows a second: of a network call, and of a replayed step, by precision and rows a pass."""
    for rows in (2, 4) if bench.tiny else (64, 256, 16, 512, 1024):
        for precision in bench.precisions():
            bench.check(20)
            try:
                yield from _rate(bench, rows, precision)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                bench.release()


def _rate(bench: Bench, rows: int, precision: Precision) -> Iterator[Row]:
    x, score = 2 * bench.images(rows) - 1, bench.scores(precision)
    for kind, gradient in (("step", True), ("call", False)):
        what = f"{kind}, {precision}, {rows} rows"
        if any(found["what"] == what for found in bench.done.get("rates", [])):
            continue
        with arithmetic(precision):
            taken = bench.seconds(calls(score, x, gradient=gradient), repeats=3, most=4.0)
        told = {"precision": precision, "rows": rows, "kind": kind}
        yield row(what, "rows/s", [rows / s for s in taken], **told)


def headline(bench: Bench) -> Iterator[Row]:
    """DiffPure, CIFAR-10, AutoAttack rand, exact gradients, 64 images, 10 judging draws: hours at the best rates."""
    rows = bench.done.get("rates", []) + bench.done.get("compiled", [])
    aim = Cell(
        dataset="cifar10", classifier="any", score="any", defense=DiffPureSDE(t=0.1), attack=AutoAttackRand(),
        threat=ThreatModel(epsilon=8 / 255), num_images=IMAGES,
    )  # fmt: skip
    plain, graph = aim.attack.usual_queries()
    steps = aim.defense.network_evaluations
    best: dict[tuple[str, str], Row] = {}
    for found in (each for each in rows if each["kind"] in ("step", "call")):
        place = (found["kind"] + (", compiled" if found.get("compiled") else ""), found["precision"])
        if found["value"] > best.get(place, {"value": 0.0})["value"]:
            best[place] = found
    for (kind, precision), found in sorted(best.items()):
        if not kind.startswith("step") or ("call", "float32") not in best:
            continue
        answers = IMAGES * (plain + count_judged(aim))  # in float32, whatever the attack computes in
        hours = [
            (IMAGES * graph * steps / found[end] + answers * steps / best["call", "float32"][end]) / 3600
            for end in ("value", "low", "high")
        ]
        yield row(f"headline, {precision}{kind.removeprefix('step')}", "hours", hours, precision=precision)


def memory(bench: Bench) -> Iterator[Row]:
    """Bytes that the graph of one network call keeps for a row."""
    if bench.device.type != "cuda":
        return
    for precision in bench.precisions():
        peaks = []
        for rows in (8, 24):
            x = (2 * bench.images(rows) - 1).requires_grad_()
            bench.release()
            before = torch.cuda.memory_allocated(bench.device)
            with arithmetic(precision):
                out = bench.scores(precision).epsilon(x, times(x, 0.05))
            peaks.append(torch.cuda.memory_allocated(bench.device) - before)
            del out
        yield row(f"graph of a call, {precision}", "MiB/row", [(peaks[1] - peaks[0]) / 16 / 2**20], precision=precision)


def cosines(bench: Bench) -> Iterator[Row]:
    """Gradients through DiffPure in low precision beside float32's on the same draw, and those of two draws."""
    rows, steps = (2, 2) if bench.tiny else (8, 20)
    x, labels = bench.images(rows), torch.arange(rows, device=bench.device) % 10
    defense, head = DiffPureSDE(t=0.1, steps=steps), classifier(bench)

    def gradient(precision: Precision, draw: int) -> Tensor:
        low = defense.defend(head, bench.scores(precision))
        model = AttackedDefense(defense.defend(head, bench.score), low, precision)
        with arithmetic(precision):
            found = Oracle(model, labels, torch.arange(rows), 0).gradient(x, draw).gradient
        assert found is not None
        return found.flatten(1).double()

    exact = gradient("float32", 0)
    pairs = {f"{p}, same draw": gradient(p, 0) for p in bench.precisions() if p != "float32"}
    for what, other in {**pairs, "float32, another draw": gradient("float32", 1)}.items():
        yield row(f"cosine with float32: {what}", "", torch.cosine_similarity(exact, other, dim=1).tolist())


def classifier(bench: Bench) -> nn.Module:
    """A classifier with random weights, cheap beside the score network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.LazyLinear(10))
        network(torch.zeros(1, *SHAPE))
    return network.eval().requires_grad_(False).to(bench.device)


def overhead(bench: Bench) -> Iterator[Row]:
    """Purifying, and its exact gradient with every step replayed, over the bare network calls."""
    rows, steps = (2, 2) if bench.tiny else (64, 10)
    x, noise = bench.images(rows), Noise(0, torch.arange(rows))
    purify = checkpointed(DiffPureSDE(t=0.1, steps=steps), 1).build(classifier=None, score=bench.score)
    for what, recorded in (("purify", False), ("gradient", True)):
        bare = calls(bench.score, x, gradient=recorded)
        alone = statistics.median(bench.seconds(lambda bare=bare: [bare() for _ in range(steps)], 3))
        whole = bench.seconds(lambda recorded=recorded: _purified(purify, x, noise, recorded), 3)
        yield row(f"{what} over bare calls, {rows} rows", "x", [s / alone for s in whole])


def _purified(purify: Any, x: Tensor, noise: Noise, recorded: bool) -> None:
    leaf = x.detach().requires_grad_(recorded)
    with torch.set_grad_enabled(recorded):
        out = purify(leaf, noise)
        if recorded:
            torch.autograd.grad(out.sum(), leaf)


def checkpointed(purifier: Purifier, every: int | None) -> Purifier:
    """The purifier with another `checkpoint_every`, see `scan`."""
    other = copy.copy(purifier)
    object.__setattr__(other, "checkpoint_every", every)
    return other


def adjoints(bench: Bench) -> Iterator[Row]:
    """Exact gradients, steps replayed or their graph kept as autograd does, beside torchsde's and torchdiffeq's."""
    rows, steps = (2, 2) if bench.tiny else (32, 10)
    x, noise = bench.images(rows), Noise(0, torch.arange(rows))
    for purifier in (DiffPureSDE(t=0.1, steps=steps), DiffPureODE(t=0.1, steps=steps)):
        taken = {}
        for name, every, kind in (("adjoint", 1, "adjoint"), ("replayed", 1, "exact"), ("kept", 0, "exact")):
            purify = checkpointed(purifier, every).build(classifier=None, score=bench.score, gradient=kind)
            taken[name] = bench.seconds(lambda purify=purify: _purified(purify, x, noise, True), 3)
        for name in ("replayed", "kept"):
            ratios = [statistics.median(taken["adjoint"]) / s for s in taken[name]]
            yield row(f"{purifier.name}: exact, {name}, as fast as the adjoint", "x", ratios)


def draws(bench: Bench) -> Iterator[Row]:
    """Sixteen draws of a few images in one pass over one draw a pass."""
    rows, eot, steps = (1, 2, 2) if bench.tiny else (8, 16, 5)
    x, labels, ids = bench.images(rows), torch.arange(rows, device=bench.device), torch.arange(rows)
    model: Defended = DiffPureSDE(t=0.1, steps=steps).defend(classifier(bench), bench.score)

    def ask(pass_rows: int | None) -> Callable[[], object]:
        return lambda: Oracle(model, labels, ids, 0, eot=eot, rows=pass_rows).gradient(x, 0)

    apart = statistics.median(bench.seconds(ask(rows), 3))
    yield row(
        f"{eot} draws of {rows} images in one pass", "x as fast", [apart / s for s in bench.seconds(ask(None), 3)]
    )


def noise(bench: Bench) -> Iterator[Row]:
    """Milliseconds of a draw."""
    for rows in (2,) if bench.tiny else (64, 512):
        source, like = Noise(0, torch.arange(rows)), bench.images(rows)
        taken = bench.seconds(lambda source=source, like=like: [source.normal(like, step=k) for k in range(16)])
        yield row(f"a draw of {rows} rows, 16 in turn", "ms", [1000 * s / 16 for s in taken])
