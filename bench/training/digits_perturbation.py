"""The recipe behind defenses/models/assets/digits_perturbation: what attacks on `digits_cnn` add, for AAOpt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import load_dataset
from bench.datasets.digits import SPLIT_SEED
from bench.training.classifier import PGD
from bench.training.perturbation import find_perturbations, fit_perturbation, perturbation_loss
from bench.training.progress import Progress
from defenses.models.classifiers import load_classifier
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.weights import sha256_of

FILE = "digits_perturbation.safetensors"
CLASSIFIER = "digits_cnn"
LEVELS = (50, 150, 250, 350, 500)
NETWORK: dict[str, Any] = {"image_shape": [1, 8, 8], "width": 160, "blocks": 3, "time_width": 64}
STEPS, COPIES = 4000, 3
ATTACKS = (  # a quarter, a half and all of Linf 3/16, and L2, as the authors have them of 8/255
    *(PGD(norm="Linf", epsilon=k / 64, steps=20) for k in (3, 6, 12)),
    *(PGD(norm="L2", epsilon=epsilon, steps=20) for epsilon in (0.5, 1.0)),
)


def train_digits_perturbation(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    """Attack the shipped classifier of the digits, and train the network; returns the record.

    Args:
        output: folder for the weights.
        seed: of every random draw.
        effort: scales the number of steps; 1 is what the package ships.
        progress: see `Progress`.
    """
    from safetensors.torch import save_file

    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    classifier = load_classifier(CLASSIFIER)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    seen, held_out = (
        find_perturbations(
            classifier, data.images(range(len(data))), data.labels, ATTACKS, generator, copies=copies
        )
        for data, copies in ((train, COPIES), (test, 1))
    )  # fmt: skip
    torch.manual_seed(seed)
    network = ScoreMLP(**NETWORK)
    network.fit_scale(seen)
    steps = max(1, round(STEPS * effort))
    network = fit_perturbation(
        network, seen, steps=steps, seed=seed, what="digits_perturbation", progress=progress
    )  # fmt: skip
    seconds = time.perf_counter() - start
    save_file(network.state_dict(), output / FILE)
    return {
        "dataset": {"name": "digits", "split_seed": SPLIT_SEED, "train_images": len(train), "test_images": len(test)},
        "classifier": CLASSIFIER, "attacks": [repr(attack) for attack in ATTACKS],
        "files": {
            FILE: {
                "sha256": sha256_of(output / FILE), "bytes": (output / FILE).stat().st_size, "network": NETWORK,
                "parameters": sum(p.numel() for p in network.parameters()), "steps": steps,
                "seconds": round(seconds, 1), "loss_train": losses(network, seen[: 6 * len(train)]),
                "loss_test": losses(network, held_out),
            }
        },
    }  # fmt: skip


@torch.no_grad()
def losses(network: nn.Module, perturbations: Tensor) -> dict[str, float]:
    """The loss at each of `LEVELS`, one fixed draw of the noise; predicting zero gets 1."""
    noise = torch.randn(perturbations.shape, generator=torch.Generator().manual_seed(0))
    rows = len(perturbations)
    return {
        str(level): perturbation_loss(network, perturbations, torch.full((rows,), level), noise).item()
        for level in LEVELS
    }
