"""What attacks cost: EOT in one batch against a loop, the cascade's saving, and the harness over the bare calls.

    python benchmarks/attacks.py --threads 2

All on digits with the shipped networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ratios import Row, ratio, seconds_in_turn, show

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


def eot_in_one_batch(images: int, eot: int) -> Row:
    """A gradient averaged over `eot` draws: one batch, or one pass a draw."""
    ready = prepared(DiffPureSDE(t=0.1, steps=10), PGDEOT(), "exact", images)
    x, labels, ids = ready.batch(slice(0, images))
    model = ready.model()
    together, apart = (Oracle(model, labels, ids, 0, eot=eot, rows=rows) for rows in (None, images))
    works = {"together": lambda: together.gradient(x, 0), "apart": lambda: apart.gradient(x, 0)}
    took = seconds_in_turn(works, torch.device("cpu"), 5)
    return ratio(f"EOT {eot}, {images} images: one batch, as fast as a pass a draw", took["apart"], took["together"])


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


def overhead(images: int, steps: int) -> Row:
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

    took = seconds_in_turn({"harness": harness, "bare": bare}, torch.device("cpu"), 3)
    what = f"PGD-{steps}, EOT 4, {images} images: harness over bare calls"
    return ratio(what, took["harness"], took["bare"], "<= 1.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="file for the ratios; otherwise they are printed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [eot_in_one_batch(images, 20) for images in (4, args.images)] + [overhead(args.images, args.steps)]
    show(rows, {"images": args.images, "steps": args.steps}, args.json)
    cascade_saving(args.images, args.steps)


if __name__ == "__main__":
    main()
