"""The recipe behind `bench train adbm`: a score network of `bench train score`, fine-tuned into a bridge for ADBM."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import ImageSet
from bench.training.adbm import bridge_loss
from bench.training.classifier_recipe import parse_attack
from bench.training.long import Plan, claim, digest, fit_long, rows_of
from bench.training.pictures import bytes_of, pixels_of
from bench.training.progress import Progress
from bench.training.score_networks import load_blocks, save_blocks
from defenses.models.weights import sha256_of

# The authors: Adam 2e-4 after 5,000 steps, average 0.999, 30,000 steps of 128 pictures.
PLAN = Plan(steps=600, batch_size=64, learning_rate=None, other_rate=2e-4, weight_decay=0.0, average=0.99)
CHECKED = 256  # pictures that the loss is measured on


def train_adbm(
    train: ImageSet, test: ImageSet, output: Path, *, seed: int, effort: float, progress: Progress,
    score: str | None = None, classifier: str | None = None, adversarial: str = "Linf:8/255",
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune a score network on attacked pictures of a frozen classifier, on the CPU; returns the record.

    Args:
        train: pictures to train on.
        test: pictures to measure on.
        output: folder for the weights and the checkpoint.
        seed: of every random draw.
        effort: scales the number of steps.
        progress: see `Progress`.
        score: the score network, see `load_blocks`.
        classifier: registered name.
        adversarial: "Linf:" and the radius of the training attack, image units.

    Raises:
        LookupError: an unknown name.
        MissingWeights: a file is not on this machine.
        ValueError: a name is not given, a score network of another kind or for other pictures, or an `output` of
            another network.
    """
    if score is None:
        raise ValueError("Expected --score, the score network to fine-tune, got none. E.g. --score cifar10_small.")
    network, arguments = load_blocks(score, train.image_shape)
    attacked, epsilon = _classifier(classifier), _radius(adversarial)
    plan, path = PLAN.scaled(effort), output / f"{train.name}_adbm.safetensors"
    checkpoint, images = claim(output, path.name), bytes_of(train)
    before = _loss(network, test, attacked, epsilon)

    def loss(net: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        rows = rows_of(step, plan.batch_size, len(images), seed)
        x, labels = pixels_of(images, rows), train.labels[rows]
        return bridge_loss(net, x, labels, generator, classifier=attacked, epsilon=epsilon)

    fitted, seconds = fit_long(
        deepcopy(network).requires_grad_(True), loss, plan=plan, seed=seed,
        what=f"{train.name}_adbm {score} {classifier} {adversarial}", pictures=digest(images, train.labels),
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    save_blocks(fitted, arguments, path)
    return {
        "dataset": {"name": train.name, "train_images": len(train), "note": train.note},
        "scale": "small", "score": score, "classifier": classifier, "adversarial": adversarial,
        "files": {
            path.name: {
                "sha256": sha256_of(path), "bytes": path.stat().st_size, "network": arguments,
                "parameters": sum(p.numel() for p in fitted.parameters()), "steps": plan.steps,
                "batch_size": plan.batch_size, "seconds": round(seconds, 1),
                "loss_before": before, "loss_after": _loss(fitted, test, attacked, epsilon),
            }
        },
    }  # fmt: skip


def _classifier(name: str | None) -> nn.Module:
    if name is None:
        raise ValueError("Expected --classifier, whose attacks are undone, got none. E.g. --classifier cifar_resnet56.")
    from defenses.models.classifiers import load_classifier

    return load_classifier(name)


def _radius(adversarial: str) -> float:
    attack = parse_attack(adversarial)
    if attack is None or attack.norm != "Linf":
        raise ValueError(f"Expected --adversarial Linf:<epsilon> for adbm, such as Linf:8/255, got {adversarial!r}.")
    return attack.epsilon


def _loss(network: nn.Module, test: ImageSet, classifier: nn.Module, epsilon: float) -> float:
    """The fine-tuning loss on the first test pictures, of one fixed draw; the network keeps no gradient of it."""
    rows = list(range(min(CHECKED, len(test))))
    x, generator = 2 * test.images(rows) - 1, torch.Generator().manual_seed(0)
    value = bridge_loss(network.eval(), x, test.labels[rows], generator, classifier=classifier, epsilon=epsilon)
    return float(value.detach())
