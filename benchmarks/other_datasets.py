"""The look behind the settings of the grid `other_datasets`: radii and noise levels, on pictures outside the grid.

What ten steps of PGD leave of the bare classifier at several radii, how many clean pictures DiffPure's ODE keeps at
several noise levels and, with --attacked, what its exact gradient leaves there.

    BENCH_DATA_DIR=... python benchmarks/other_datasets.py mnist --radii 0.1,0.15 --levels 0.05,0.1,0.2 [--attacked]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.datasets import load_dataset, shuffled
from bench.grids.other_datasets import IMAGES, SETTINGS
from bench.grids.paper_tables import SMALL
from defenses.diffpure_ode import DiffPureODE
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score
from defenses.noise import Noise

Answer = Callable[[Tensor, int], Tensor]
"""(images, draw) -> logits."""


def pgd(answer: Answer, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The grid's attack in short: steps of `SMALL.attack` from the pictures themselves, a fresh draw each."""
    attack, found = SMALL.attack(epsilon), x
    for k in range(attack.steps):
        found = found.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(answer(found, k + 1), y, reduction="sum"), found)
        step = found.detach() + attack.step_size * gradient.sign() - x
        found = (x + step.clamp(-epsilon, epsilon)).clamp(0, 1)
    return found.detach()


def share(answer: Answer, x: Tensor, y: Tensor) -> float:
    """Percent of the pictures that one draw gets right."""
    with torch.no_grad():
        return 100 * (answer(x, 0).argmax(1) == y).double().mean().item()


def main() -> None:
    """Print a line a radius and a line a level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=[setting.dataset for setting in SETTINGS])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--radii", default="", help="Linf, with commas between them.")
    parser.add_argument("--levels", default="", help="Diffusion times, with commas between them.")
    parser.add_argument("--attacked", action="store_true", help="Attack the purifier at each radius too.")
    asked = parser.parse_args()
    (setting,) = (setting for setting in SETTINGS if setting.dataset == asked.dataset)
    radii, levels = ([float(value) for value in text.split(",") if value] for text in (asked.radii, asked.levels))
    data = load_dataset(setting.dataset)
    rows = shuffled(len(data), 0)[IMAGES : IMAGES + asked.images]  # after those that the grid takes
    x, y = data.images(rows), data.labels[rows]
    classifier, score = load_classifier(setting.classifier, setting.dataset), load_score(setting.score)

    def bare(images: Tensor, draw: int) -> Tensor:
        return classifier(images)

    print(f"{setting.dataset}, {len(rows)} pictures; bare: clean {share(bare, x, y):.1f}", flush=True)
    for epsilon in radii:
        print(f"bare, Linf {epsilon:.4g}: {share(bare, pgd(bare, x, y, epsilon), y):.1f}", flush=True)
    for t in levels:
        model = DiffPureODE(t=t, steps=SMALL.ode_steps).defend(classifier, score, gradient="exact")

        def purified(images: Tensor, draw: int, model: Callable[..., Tensor] = model) -> Tensor:
            return model(images, Noise(draw, torch.arange(len(images))))

        words = [f"DiffPure (ODE), t = {t}: clean {share(purified, x, y):.1f}"]
        for epsilon in radii if asked.attacked else ():
            left = share(purified, pgd(purified, x, y, epsilon), y)
            words.append(f"exact, Linf {epsilon:.4g}: {left:.1f}")
        print("; ".join(words), flush=True)


if __name__ == "__main__":
    main()
