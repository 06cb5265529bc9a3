"""What low precision and torch.compile save of an attack's gradient, and how near it stays to the eager float32 one.

    python benchmarks/attack_gradients.py [--device cuda] [--json FILE]

DiffPure on the networks that ship with the package, on random pictures. Ratios are the time of a setting over that of
eager float32, the two in turn in one run, after the first call, whose seconds (the compiler's) are shown by themselves.
Cosines are of the same draw; the last one is of float32's gradients on two draws, which an attack follows alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ratios import Row, measured, ratio, seconds_in_turn, show
from torch import Tensor

from bench.attacks.base import Oracle
from defenses.attacked import AttackedDefense
from defenses.base import Defended, Purifier
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.classifiers import load_classifier
from defenses.models.compiled import (
    NEAR_LOW,
    CompiledNetwork,
    Compiling,
    compile_classifier,
    compile_score,
    compiled_networks,
)
from defenses.models.low_precision import in_bfloat16
from defenses.models.scores import load_score
from defenses.precision import Precision, arithmetic


@dataclass(frozen=True)
class Setting:
    """What is attacked.

    Attributes:
        classifier: its name.
        score: name of the score network.
        defense: the purifier.
        rows: pictures of a pass.
    """

    classifier: str
    score: str
    defense: Purifier
    rows: int


SETTINGS = {
    "digits, SDE of 10 steps": Setting("digits_cnn", "digits_score", DiffPureSDE(t=0.1, steps=10), 64),
    "CIFAR-10, ODE of 5 steps": Setting("cifar10_small_at", "cifar10_small", DiffPureODE(t=0.1, steps=5), 16),
}


def defended(
    setting: Setting, device: torch.device, precision: Precision, backend: str | None
) -> tuple[Defended, list[CompiledNetwork]]:
    """The defense as an attack of that precision meets it, compiled where a backend is named; what was compiled."""
    classifier, score = load_classifier(setting.classifier).to(device), load_score(setting.score).to(device)
    low = in_bfloat16(score) if precision == "bfloat16" else score
    head = classifier
    if backend is not None:
        compiling = Compiling(backend)
        near = None if precision == "float32" else NEAR_LOW
        head, low = compile_classifier(classifier, compiling), compile_score(low, compiling, near=near)
    real, seen = setting.defense.defend(classifier, score), setting.defense.defend(head, low)
    return AttackedDefense(real, seen, precision), compiled_networks(head, low)


def gradient_of(model: Defended, x: Tensor, precision: Precision, draw: int = 0) -> Callable[[], Tensor]:
    """A call that gives the attack's gradient at x on one draw."""
    rows = len(x)
    oracle = Oracle(model, torch.arange(rows, device=x.device) % 10, torch.arange(rows), 0)

    def call() -> Tensor:
        with arithmetic(precision):
            found = oracle.gradient(x, draw).gradient
        assert found is not None
        return found

    return call


def cosines(a: Tensor, b: Tensor) -> list[float]:
    """One a picture."""
    found: list[float] = torch.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1).tolist()
    return found


def compare(name: str, setting: Setting, device: torch.device, backend: str, repeats: int) -> list[Row]:
    """Every precision of the device, eager and compiled."""
    shape = load_score(setting.score).image_shape
    x = torch.rand(setting.rows, *shape, generator=torch.Generator().manual_seed(2)).to(device)
    precisions: list[Precision] = ["float32", "bfloat16"] if device.type == "cpu" else ["float32", "tf32", "bfloat16"]
    works: dict[str, Callable[[], Tensor]] = {}
    first, found = dict[str, float](), dict[str, Tensor]()
    for precision in precisions:
        for kind in (None, backend):
            label = precision if kind is None else f"{precision}, compiled"
            model, networks = defended(setting, device, precision, kind)
            works[label], begin = gradient_of(model, x, precision), time.perf_counter()
            found[label] = works[label]().cpu()  # waits for the device
            first[label] = time.perf_counter() - begin
            failed = [network.failed for network in networks if network.failed is not None]
            if failed or (kind and not networks):
                raise SystemExit(f"{label}: not compiled: {failed[0] if failed else 'nothing to compile'}")
    seconds = seconds_in_turn(works, device, repeats)
    rows = [ratio(f"{name}: {label} over float32", seconds[label], seconds["float32"]) for label in list(works)[1:]]
    rows += [measured(f"{name}: first call, {label}, s", [took]) for label, took in first.items()]
    rows += [measured(f"{name}: cosine, {label}", cosines(found["float32"], found[label])) for label in list(works)[1:]]
    other = gradient_of(defended(setting, device, "float32", None)[0], x, "float32", draw=1)().cpu()
    return [*rows, measured(f"{name}: cosine, float32 on another draw", cosines(found["float32"], other))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = [row for name in args.only for row in compare(name, SETTINGS[name], device, args.backend, args.repeats)]
    show(rows, {"device": args.device, "backend": args.backend}, args.json)


if __name__ == "__main__":
    with arithmetic():  # what is not said to be in TF32 is float32's
        main()
