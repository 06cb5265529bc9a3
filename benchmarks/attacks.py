"""What attacks cost: EOT in one batch against a loop, the cascade's saving, and the harness over the bare calls.

    python benchmarks/attacks.py --threads 2

All on digits with the shipped networks. The clock is the processor's, which others may share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from bench.attacks import Attack, Trace
from bench.attacks.base import Oracle
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.evaluate import evaluate
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared
from bench.threat import ThreatModel
from defenses import Defense
from defenses.base import Gradient
from defenses.diffpure_sde import DiffPureSDE
from defenses.jpeg import JPEG
from defenses.noise import Noise

EPSILON = 3 / 16


def prepared(defense: Defense, attack: Attack, gradient: Gradient, images: int) -> Prepared:
    """A digits cell, loaded."""
    cell = Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=attack,
        threat=ThreatModel(epsilon=EPSILON, gradient=gradient),
        num_images=images,
    )
    return Loader(torch.device("cpu")).prepare(cell)


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least processor seconds of `work` in a few calls, after one to warm up."""
    work()
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def eot_in_one_batch(images: int, eot: int) -> None:
    """A gradient averaged over `eot` draws: one batch, or one pass a draw."""
    ready = prepared(DiffPureSDE(t=0.1, steps=10), PGDEOT(), "exact", images)
    x, labels, ids = ready.batch(slice(0, images))
    model = ready.model()
    seconds = []
    for rows in (None, images):
        oracle = Oracle(model, labels, ids, 0, eot=eot, rows=rows)
        seconds.append(cpu_seconds(lambda oracle=oracle: oracle.gradient(x, 0)))
    print(
        f"EOT {eot} on {images} images: one batch {seconds[0]:.3f} s, one pass a draw {seconds[1]:.3f} s, "
        f"{seconds[1] / seconds[0]:.2f} times faster"
    )


def cascade_saving(images: int, steps: int) -> None:
    """Network evaluations of `gold` on a weak defense, with images leaving once settled and with none leaving."""
    units = []
    for settled in (True, False):
        attack = Gold(steps=steps, apgd_steps=steps // 2, eot=1, check_draws=1)
        ready = prepared(JPEG(), attack, "straight_through", images)
        x, labels, ids = ready.batch(slice(0, images))
        model = ready.model()
        with Meter(*ready.counted(model)) as meter:
            if settled:
                attack.perturb(model, x, labels, ids, ready.cell.threat, 0)
            else:
                for member in attack.cascade(EPSILON).made():
                    member.perturb(model, x, labels, ids, ready.cell.threat, 0)
            units.append(meter.take())
    print(
        f"gold on jpeg, {images} images, {steps} steps: {units[0]} network evaluations as a cascade, {units[1]} with "
        f"every member on every image, {units[1] / units[0]:.1f} times fewer"
    )


def overhead(images: int, steps: int) -> None:
    """Attack and judge through the harness, over the bare purify-and-classify calls that they need."""
    attack = PGDEOT(steps=steps, step_size=EPSILON / 8, eot=4)
    ready = prepared(DiffPureSDE(t=0.1, steps=10), attack, "exact", images)
    x, labels, ids = ready.batch(slice(0, images))
    model, draws = ready.model(), 10
    judged = 3 * draws + steps  # clean, robust, null and the looks

    def harness() -> None:
        evaluate(model, attack, x, labels, ids, ready.cell.threat, draws=draws, seed=0, trace=Trace())

    def bare() -> None:
        for step in range(steps):
            leaf = x.repeat(4, 1, 1, 1).requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(leaf, Noise(0, ids, 4 * step).repeat(4)), labels.repeat(4))
            torch.autograd.grad(loss, leaf)
        with torch.no_grad():
            for first in range(0, judged, draws):
                count = min(draws, judged - first)
                model(x.repeat(count, 1, 1, 1), Noise(1, ids, first).repeat(count))

    with_harness, without = cpu_seconds(harness), cpu_seconds(bare)
    print(
        f"PGD-{steps}, EOT 4, {images} images, DiffPure: {with_harness:.2f} s through the harness, "
        f"{without:.2f} s bare, overhead {100 * (with_harness / without - 1):.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads")
    for images, eot in ((4, 20), (args.images, 20)):
        eot_in_one_batch(images, eot)
    cascade_saving(args.images, args.steps)
    overhead(args.images, args.steps)


if __name__ == "__main__":
    main()
