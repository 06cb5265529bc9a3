"""The recipe behind defenses/models/assets/digits_energy: a small energy of the digits, for Langevin purification."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets import load_dataset
from bench.datasets.digits import SPLIT_SEED
from bench.training.energy import fit_energy, matching_loss
from bench.training.progress import Progress
from defenses.diffusion.schedule import to_model_space
from defenses.models.networks.energy import EnergyMLP
from defenses.models.weights import sha256_of

FILE = "digits_energy.safetensors"
NETWORK: dict[str, Any] = {"image_shape": [1, 8, 8], "width": 160, "blocks": 3, "sigma": 0.2}
STEPS = 3000


def train_digits_energy(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    """Train the energy; returns the record.

    Args:
        output: folder for the weights.
        seed: of every random draw.
        effort: scales the number of steps; 1 is what the package ships.
        progress: see `Progress`.
    """
    from safetensors.torch import save_file

    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    x, x_test = (data.images(range(len(data))) for data in (train, test))
    torch.manual_seed(seed)
    network = EnergyMLP(**NETWORK)
    network.fit_scale(to_model_space(x))
    start = time.perf_counter()
    steps = max(1, round(STEPS * effort))
    network = fit_energy(
        network, x, sigma=network.sigma, steps=steps, seed=seed, what="digits_energy", progress=progress
    )
    seconds = time.perf_counter() - start
    save_file(network.state_dict(), output / FILE)
    return {
        "dataset": {"name": "digits", "split_seed": SPLIT_SEED, "train_images": len(train), "test_images": len(test)},
        "files": {
            FILE: {
                "sha256": sha256_of(output / FILE), "bytes": (output / FILE).stat().st_size, "network": NETWORK,
                "parameters": sum(p.numel() for p in network.parameters()), "steps": steps,
                "seconds": round(seconds, 1), "loss_train": _loss(network, x), "loss_test": _loss(network, x_test),
            }
        },
    }  # fmt: skip


def _loss(network: EnergyMLP, images: Tensor) -> float:
    """The matching loss on images in [0, 1], one fixed draw of the noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return matching_loss(network, to_model_space(images), noise, network.sigma).item()
