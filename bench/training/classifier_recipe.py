"""The recipe behind `bench train classifier`: plain or adversarial training on the pictures of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from bench.datasets import ImageSet
from bench.training.classifier import PGD, accuracy, robust_accuracy
from bench.training.long import Plan, claim, digest, fit_long, rows_of
from bench.training.pictures import HANDED, bytes_of
from bench.training.progress import Progress
from defenses.models.shipped import ARCHITECTURES
from defenses.models.weights import sha256_of
from defenses.registry import unknown_name

NETWORK: dict[str, Any] = {"widths": [64, 128, 256], "blocks": 2}
PLAN = Plan(steps=2400, batch_size=128, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A network that `bench train classifier --network` knows.

    Attributes:
        architecture: of `defenses.models.shipped.ARCHITECTURES`.
        arguments: of it, but the number of classes and the size.
        channels: of the pictures that it takes.
        multiple: their sides are multiples of this.
        plain: prefixes of the parameters that AdamW moves although they are matrices.
    """

    architecture: str
    arguments: dict[str, Any]
    channels: int
    multiple: int
    plain: tuple[str, ...]

    def of(self, pictures: ImageSet) -> dict[str, Any]:
        """All arguments of the network for these pictures. Raises ValueError for pictures that it cannot take."""
        channels, height, width = pictures.image_shape
        if channels != self.channels or height % self.multiple or width % self.multiple or height != width:
            colour = "colour" if self.channels == 3 else "square grey"
            raise ValueError(
                f"Expected {colour} pictures with sides that {self.multiple} divides, got {channels} x {height} x "
                f"{width} of {pictures.name}. `--network` knows {', '.join(KINDS)}; `bench train digits` makes the "
                "classifiers of the digits."
            )
        size = {"size": height} if self.architecture == "small_cnn" else {}
        return {**self.arguments, **size, "classes": pictures.classes}


_BLOCKS, _RESNET, _CNN = (
    ("network.input", "network.output"),
    ("network.conv1", "network.linear"),
    ("features.0", "head"),
)
KINDS = {
    "blocks": Kind(
        architecture="block_resnet", arguments=NETWORK, channels=3, multiple=8, plain=_BLOCKS
    ),
    "resnet20": Kind(architecture="cifar_resnet", arguments={"depth": 20}, channels=3, multiple=4, plain=_RESNET),
    "cnn": Kind(architecture="small_cnn", arguments={"width": 24}, channels=1, multiple=2, plain=_CNN),
}  # fmt: skip
DELAY = 0.25  # share of the steps before the attack begins: S. Gupta et al., "Improving the affordability of
# robustness training for DNNs", CVPR Workshops 2020


def parse_attack(text: str) -> PGD | None:
    """What to train against: two PGD steps of 1.25 epsilon from a random start.

    Args:
        text: "none", or a norm and a radius such as "Linf:8/255".

    Raises:
        ValueError: anything else.
    """
    from bench.epsilon import parse_epsilon

    norm, _, epsilon = text.partition(":")
    if text == "none":
        return None
    if norm not in ("Linf", "L2") or not epsilon:
        raise ValueError(f"Expected --adversarial none, Linf:<epsilon> or L2:<epsilon>, got {text!r}.")
    radius = parse_epsilon(epsilon) or 0.0
    if not 0 < radius < (1 if norm == "Linf" else inf):
        raise ValueError(f"Expected an epsilon that moves pictures in [0, 1], such as Linf:8/255, got {text!r}.")
    return PGD(norm=norm, epsilon=radius, steps=2)  # type: ignore[arg-type]


def cropped(images: Tensor, generator: torch.Generator, *, mirror: bool = True) -> Tensor:
    """Pictures (batch, channels, height, width) moved by up to 2 pixels, black outside; with `mirror`, half of them
    mirrored."""
    count, _, height, width = images.shape
    flip = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5) & mirror
    padded = pad(torch.where(flip, images.flip(3), images), (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2)


def fit(
    network: nn.Module, images: Tensor, labels: Tensor, attack: PGD | None, plan: Plan, *, seed: int, what: str,
    checkpoint: Path | None, progress: Progress, mirror: bool = True, plain: tuple[str, ...] = KINDS["blocks"].plain,
) -> tuple[nn.Module, float]:  # fmt: skip
    """Train a classifier; returns the averaged network and the seconds spent, see `fit_long`.

    Args:
        network: images in [0, 1] -> logits.
        images: uint8 (N, channels, height, width).
        labels: (N,).
        attack: each batch is attacked by it, from `DELAY` of the steps on; None for plain training.
        plan: steps, batch size, rates.
        seed: of every random draw.
        what: is trained, for `progress` and the checkpoint.
        checkpoint: file to continue from; None for none.
        progress: see `Progress`.
        mirror: whether half of the pictures are mirrored.
        plain: see `Kind`.
    """

    def loss(net: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        rows = rows_of(step, plan.batch_size, len(images), seed)
        x, y = cropped(images[rows], generator, mirror=mirror).float() / 255, labels[rows]
        if attack is not None and step >= DELAY * plan.steps:
            x = attack(net, x, y, generator)
        return cross_entropy(net(x).float(), y, label_smoothing=0.05)

    return fit_long(
        network, loss, plan=plan, seed=seed, what=what, pictures=digest(images, labels),
        plain=plain, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def train_classifier(
    train: ImageSet, test: ImageSet, output: Path, *, adversarial: str, seed: int, effort: float, progress: Progress,
    network: str = "blocks",
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier on the pictures of a data set; returns the record.

    Args:
        train: pictures to train on, of the channels and sides that the network takes.
        test: pictures to measure on.
        output: folder for the weights and the checkpoint.
        adversarial: see `parse_attack`.
        seed: of every random draw.
        effort: scales the number of steps.
        progress: see `Progress`.
        network: one of `KINDS`.

    Raises:
        ValueError: pictures that the network cannot take, or an `output` of another network.
        LookupError: an unknown network.
    """
    from safetensors.torch import save_file

    if network not in KINDS:
        raise unknown_name("network", network, KINDS)
    kind, attack, plan = KINDS[network], parse_attack(adversarial), PLAN.scaled(effort)
    arguments = kind.of(train)
    torch.manual_seed(seed)
    made = getattr(import_module(f"defenses.models.networks.{kind.architecture}"), ARCHITECTURES[kind.architecture])
    of = train.name if network == "blocks" else f"{train.name}_{network}"
    what = f"{of}_{'plain' if attack is None else f'at_{attack.norm}'.lower()}"
    path = output / f"{what}.safetensors"
    fitted, seconds = fit(
        made(**arguments), bytes_of(train), train.labels, attack, plan, seed=seed, what=f"{what} {adversarial}",
        checkpoint=claim(output, path.name), progress=progress, mirror=train.name not in HANDED, plain=kind.plain,
    )  # fmt: skip
    state = {name: v.bfloat16() if v.is_floating_point() else v for name, v in fitted.state_dict().items()}
    save_file(state, path)
    fitted.load_state_dict(state)
    return {
        "dataset": {"name": train.name, "train_images": len(train), "note": train.note},
        "files": {
            path.name: {
                "sha256": sha256_of(path), "bytes": path.stat().st_size, "architecture": kind.architecture,
                "network": arguments, "parameters": sum(p.numel() for p in fitted.parameters()), "steps": plan.steps,
                "batch_size": plan.batch_size, "seconds": round(seconds, 1),
                "trained_against": repr(attack) if attack else "nothing", **_accuracies(fitted, test, attack),
            }
        },
    }  # fmt: skip


def _accuracies(network: nn.Module, test: ImageSet, attack: PGD | None) -> dict[str, Any]:
    """Percent of the test pictures: clean on all, and under PGD-20 on the first 1,000."""
    parts = [range(k, min(k + 500, len(test))) for k in range(0, len(test), 500)]
    right = sum(accuracy(network, test.images(part), test.labels[list(part)]) * len(part) for part in parts)
    found: dict[str, Any] = {"clean_accuracy": round(100 * right / len(test), 2)}
    if attack is not None:
        first = list(range(min(1000, len(test))))
        strong = replace(attack, steps=20)
        robust = robust_accuracy(network, test.images(first), test.labels[first], strong)
        found["pgd20_accuracy"] = round(100 * robust, 2)
    return found
