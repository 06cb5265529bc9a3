"""The recipe of the digits networks that ship: two classifiers and a score network, from the training split alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import ImageSet, load_dataset
from bench.datasets.digits import SPLIT_SEED
from bench.training.classifier import PGD, Norm, accuracy, fit_classifier, robust_accuracy
from bench.training.progress import Progress
from bench.training.score import fit_score, losses_by_time, purify
from defenses.diffusion.schedule import to_model_space
from defenses.models.networks.score_mlp import ScoreMLP
from defenses.models.networks.small_cnn import SmallCNN
from defenses.models.weights import sha256_of

THREAT: dict[Norm, float] = {"Linf": 3 / 16, "L2": 1.0}  # pixels are multiples of 1/16; docs/assets.md says why
SCAN: dict[Norm, tuple[float, ...]] = {"Linf": (1 / 16, 2 / 16, 3 / 16, 4 / 16), "L2": (0.5, 0.75, 1.0, 1.25)}
PURIFY_TIMES = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2)
TIMES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.7)
CNN: dict[str, Any] = {"size": 8, "classes": 10, "width": 32}
SCORE: dict[str, Any] = {"image_shape": [1, 8, 8], "width": 256, "blocks": 5, "time_width": 64}


def train_digits(output: Path, seed: int, effort: float, progress: Progress) -> dict[str, Any]:
    """Train the three networks; returns the record.

    Args:
        output: folder for the weights.
        seed: of every random draw.
        effort: scales the number of steps; 1 is what the package ships.
        progress: see `Progress`.
    """
    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    plain = _classifier("digits_cnn", train, test, output, seed, round(1500 * effort), None, progress)
    attack = PGD(norm="Linf", epsilon=THREAT["Linf"], steps=7)
    trained = _classifier("digits_cnn_at", train, test, output, seed, round(2500 * effort), attack, progress)
    score = _score("digits_score", train, test, output, seed, round(20000 * effort), plain[0], progress)
    return {
        "dataset": {"name": "digits", "split_seed": SPLIT_SEED, "train_images": len(train), "test_images": len(test)},
        "threat": THREAT,
        "files": {
            "digits_cnn.safetensors": plain[1],
            "digits_cnn_at.safetensors": trained[1],
            "digits_score.safetensors": score,
        },
    }


def _classifier(
    name: str,
    train: ImageSet,
    test: ImageSet,
    output: Path,
    seed: int,
    steps: int,
    attack: PGD | None,
    progress: Progress,
) -> tuple[nn.Module, dict[str, Any]]:
    x, y = _all(train)
    torch.manual_seed(seed)
    start = time.perf_counter()
    network = fit_classifier(SmallCNN(**CNN), x, y, steps=steps, seed=seed, what=name, attack=attack, progress=progress)
    seconds = time.perf_counter() - start
    x, y = _all(test)
    return network, {
        **_save(network, output / f"{name}.safetensors", CNN, steps, seconds),
        "trained_against": repr(attack) if attack else "nothing",
        "clean_accuracy": round(100 * accuracy(network, x, y), 2),
        "pgd20_accuracy": _scan(network, x, y),
    }


def _scan(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy in percent under PGD-20 on the network itself, for budgets around the threat model's."""
    return {
        norm: {
            f"{epsilon:g}": round(100 * robust_accuracy(network, x, y, PGD(norm=norm, epsilon=epsilon, steps=20)), 2)
            for epsilon in budgets
        }
        for norm, budgets in SCAN.items()
    }


def _score(
    name: str,
    train: ImageSet,
    test: ImageSet,
    output: Path,
    seed: int,
    steps: int,
    classifier: nn.Module,
    progress: Progress,
) -> dict[str, Any]:
    (x, _), (x_test, y_test) = _all(train), _all(test)
    torch.manual_seed(seed)
    network = ScoreMLP(**SCORE)
    network.fit_scale(to_model_space(x))
    start = time.perf_counter()
    network = fit_score(network, x, steps=steps, seed=seed, what=name, progress=progress)
    seconds = time.perf_counter() - start
    return {
        **_save(network, output / f"{name}.safetensors", SCORE, steps, seconds),
        "loss_train": losses_by_time(network, x, TIMES),
        "loss_test": losses_by_time(network, x_test, TIMES),
        "diffpure_accuracy": _purified(network, classifier, x_test, y_test),
    }


def _purified(score: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor) -> list[dict[str, float]]:
    """Accuracy in percent behind 20-step DiffPure, one draw: clean images, and PGD-20 images of the bare classifier."""
    images = {"clean": x}
    for norm, epsilon in THREAT.items():
        attack = PGD(norm=norm, epsilon=epsilon, steps=20)
        images[f"transfer_{norm}"] = attack(classifier, x, y, torch.Generator().manual_seed(0))
    return [
        {
            "t": t,
            **{k: round(100 * accuracy(classifier, purify(score, v, t=t, steps=20), y), 2) for k, v in images.items()},
        }
        for t in PURIFY_TIMES
    ]


def _save(network: nn.Module, path: Path, arguments: dict[str, Any], steps: int, seconds: float) -> dict[str, Any]:
    from safetensors.torch import save_file

    save_file(network.state_dict(), path)
    return {
        "sha256": sha256_of(path), "bytes": path.stat().st_size, "network": arguments,
        "parameters": sum(p.numel() for p in network.parameters()), "steps": steps, "seconds": round(seconds, 1),
    }  # fmt: skip


def _all(data: ImageSet) -> tuple[Tensor, Tensor]:
    return data.images(range(len(data))), data.labels
