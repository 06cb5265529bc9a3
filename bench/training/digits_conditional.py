"""The recipe behind defenses/models/assets/digits_conditional: a class-conditional score network of the digits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import load_dataset
from bench.datasets.digits import SPLIT_SEED
from bench.training.progress import Progress
from bench.training.score import fit_score, losses_by_time
from defenses.diffusion.schedule import to_model_space
from defenses.diffusion_classifier import DiffusionClassifier
from defenses.models.conditional import ConditionalScore
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.weights import sha256_of
from defenses.noise import Noise

FILE = "digits_conditional.safetensors"
TIMES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.7)
NETWORK: dict[str, Any] = {"image_shape": [1, 8, 8], "width": 192, "blocks": 4, "time_width": 64, "classes": 10}
STEPS = 6000


def train_digits_conditional(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    """Train the network; returns the record.

    Args:
        output: folder for the weights.
        seed: of every random draw.
        effort: scales the number of steps; 1 is what the package ships.
        progress: see `Progress`.
    """
    from safetensors.torch import save_file

    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    (x, y), (x_test, y_test) = ((data.images(range(len(data))), data.labels) for data in (train, test))
    torch.manual_seed(seed)
    network = ScoreMLP(**NETWORK)
    network.fit_scale(to_model_space(x))
    start = time.perf_counter()
    steps = max(1, round(STEPS * effort))
    network = fit_score(
        network, x, steps=steps, seed=seed, what="digits_conditional", t_focus=0.5, labels=y, progress=progress
    )
    seconds = time.perf_counter() - start
    save_file(network.state_dict(), output / FILE)
    return {
        "dataset": {"name": "digits", "split_seed": SPLIT_SEED, "train_images": len(train), "test_images": len(test)},
        "files": {
            FILE: {
                "sha256": sha256_of(output / FILE), "bytes": (output / FILE).stat().st_size, "network": NETWORK,
                "parameters": sum(p.numel() for p in network.parameters()), "steps": steps,
                "seconds": round(seconds, 1), "loss_train": losses_by_time(network, x, TIMES),
                "loss_test": losses_by_time(network, x_test, TIMES),
                "diffusion_classifier_accuracy": _accuracy(network, x_test, y_test),
            }
        },
    }  # fmt: skip


@torch.no_grad()
def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of the diffusion classifier on images, in percent, one draw."""
    score = ConditionalScore(network, (1, 8, 8), classes=NETWORK["classes"])
    model = DiffusionClassifier().defend(nn.Identity(), score, gradient="none")
    return round(100 * (model(x, Noise(0, torch.arange(len(x)))).argmax(1) == y).double().mean().item(), 2)
