"""Clean accuracy behind DiffPure on two score networks: the same pictures and the same noise, paired.

    BENCH_DATA_DIR=... python benchmarks/score_networks.py cifar10_small file:blocks32:weights/cifar10_score.safetensors

The classifier is the public ResNet-56 and the noise level t = 0.1, as in the grid `cifar10_small`; one draw a picture.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from bench.datasets import load_dataset
from bench.grids.cifar10_small import LEVELS
from bench.grids.paper_tables import SMALL
from bench.statistics import compare_counts
from defenses import Defense
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score
from defenses.noise import Noise

T = LEVELS["Linf"]
DEFENSES: tuple[Defense, ...] = (DiffPureODE(t=T, steps=SMALL.ode_steps), DiffPureSDE(t=T, steps=SMALL.steps))


@torch.no_grad()
def is_right(defense: Defense, score: str, images: Tensor, labels: Tensor) -> Tensor:
    """(n,) whether one draw of the defense names each picture rightly."""
    model = defense.defend(load_classifier(SMALL.classifier), load_score(score))
    ids = torch.arange(len(images))
    parts = zip(images.split(100), ids.split(100), strict=True)
    return torch.cat([model(x, Noise(0, some)).argmax(1) for x, some in parts]) == labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", nargs=2, help="names of the two score networks, the present one first")
    parser.add_argument("--images", type=int, nargs=2, default=(2000, 500), help="for the ODE and for the SDE")
    args = parser.parse_args()
    data = load_dataset("cifar10")
    for defense, count in zip(DEFENSES, args.images, strict=True):
        x, y = data.images(range(count)), data.labels[:count]
        present, other = (is_right(defense, score, x, y) for score in args.scores)
        c = compare_counts(
            *(torch.stack([right.int(), torch.ones_like(y), right.int()]).numpy() for right in (other, present))
        )
        print(
            f"{defense.title}, {count} pictures: {c['b_accuracy']:.1f} % and {c['a_accuracy']:.1f} %, "
            f"{c['difference']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}], p = {c['p_value']:.2g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
