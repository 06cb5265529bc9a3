"""The recipe behind `bench train velocity`: a velocity network for FlowPure, in the layout that its authors use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets import ImageSet
from bench.training.long import Plan, claim, digest, fit_long, rows_of
from bench.training.pictures import bytes_of
from bench.training.progress import Progress
from bench.training.score_networks import make_ddpmpp, save_ddpmpp
from bench.training.velocity import add_noise, attack_bare, velocity_loss
from defenses.models.weights import sha256_of
from defenses.registry import unknown_name

CORRUPTIONS = ("gaussian", "pgd")


@dataclass(frozen=True, kw_only=True)
class VelocityScale:
    """A network and how it is trained.

    Attributes:
        network: arguments of DDPM++'s `Layout`.
        plan: steps, batch size, rates.
    """

    network: dict[str, Any]
    plan: Plan


# full: the authors' network and settings (DDPM++, Adam 2e-4, batches of 64, 300,000 steps, no average); but the
# rate falls to zero.
SCALES = {
    "small": VelocityScale(
        network={"channels": (32, 64), "blocks": 1, "attention": (False, True)},
        plan=Plan(steps=2000, batch_size=64, learning_rate=None, other_rate=1e-3, weight_decay=0.0),
    ),
    "full": VelocityScale(
        network={"channels": (128, 256, 256, 256), "blocks": 4, "attention": (False, True, False, False)},
        plan=Plan(
            steps=300_000, batch_size=64, learning_rate=None, other_rate=2e-4, weight_decay=0.0, average=0.0, warm_up=1
        ),
    ),
}


def train_velocity(
    train: ImageSet, output: Path, *, seed: int, effort: float, progress: Progress, scale: str = "small",
    corruption: str = "gaussian", classifier: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a velocity network on the pictures of a data set, on the CPU if small, else on a GPU; returns the record.

    Args:
        train: pictures to train on, in colour.
        output: folder for the weights and the checkpoint.
        seed: of every random draw.
        effort: scales the number of steps.
        progress: see `Progress`.
        scale: of `SCALES`.
        corruption: what is undone: "gaussian" noise, or "pgd" on the bare classifier.
        classifier: registered name, for "pgd".

    Raises:
        LookupError: another scale or corruption.
        ValueError: "pgd" without a classifier or a classifier without "pgd", no GPU for "full", pictures that the
            network cannot take, or an `output` of another network.
    """
    setting, place = _check(scale, corruption, classifier)
    _check_pictures(train, 2 ** (len(setting.network["channels"]) - 1))
    plan, path = setting.plan.scaled(effort), output / f"{train.name}_velocity_{corruption}.pt"
    checkpoint, images, labels = claim(output, path.name), bytes_of(train).to(place), train.labels.to(place)
    attacked = _load(classifier, place)
    torch.manual_seed(seed)
    network = make_ddpmpp(train.image_shape, setting.network, torch.empty(0)).to(place)

    def loss(net: Any, step: int, generator: torch.Generator) -> Tensor:
        rows = rows_of(step, plan.batch_size, len(images), seed).to(place)
        clean = images[rows].float() / 255
        t = torch.rand(len(rows), device=place, generator=generator)
        corrupted = attack_bare(attacked, clean, labels[rows], generator) if attacked else add_noise(clean, generator)
        return velocity_loss(net, clean, corrupted, t)

    losses: list[float] = []

    def tell(what: str, done: int, total: int, value: float) -> None:
        losses.append(value)
        progress(what, done, total, value)

    what = f"{train.name}_velocity {corruption} {classifier}"
    fitted, seconds = fit_long(
        network, loss, plan=plan, seed=seed, what=what, pictures=digest(images, labels), checkpoint=checkpoint,
        progress=tell,
    )  # fmt: skip
    save_ddpmpp(fitted, setting.network, path)
    tenth = max(1, len(losses) // 10)
    return {
        "dataset": {"name": train.name, "train_images": len(train), "note": train.note},
        "scale": scale, "corruption": corruption, "classifier": classifier,
        "files": {
            path.name: {
                "sha256": sha256_of(path), "bytes": path.stat().st_size,
                "network": {"image_shape": list(train.image_shape), **setting.network},
                "parameters": sum(p.numel() for p in fitted.parameters()), "steps": plan.steps,
                "batch_size": plan.batch_size, "seconds": round(seconds, 1),
                "loss_first": sum(losses[:tenth]) / tenth, "loss_last": sum(losses[-tenth:]) / tenth,
            }
        },
    }  # fmt: skip


def _check(scale: str, corruption: str, classifier: str | None) -> tuple[VelocityScale, torch.device]:
    for kind, name, known in (("scale", scale, SCALES), ("corruption", corruption, CORRUPTIONS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    if (corruption == "pgd") != (classifier is not None):
        raise ValueError(
            f"Expected --classifier for --corruption pgd and for no other, got {corruption} and {classifier}."
        )
    if scale == "full" and not torch.cuda.is_available():
        raise ValueError(
            "Expected a GPU to train at scale full, torch finds none. Leave --scale out: small needs none."
        )
    return SCALES[scale], torch.device("cuda" if scale == "full" else "cpu")


def _check_pictures(train: ImageSet, multiple: int) -> None:
    channels, height, width = train.image_shape
    if channels != 3 or height % multiple or width % multiple:
        raise ValueError(
            f"Expected colour pictures with sides that {multiple} divides, for a velocity network in score_sde's "
            f"layout, got {channels} x {height} x {width} of {train.name}. On others flowpure takes any score network."
        )


def _load(classifier: str | None, place: torch.device) -> Any:
    if classifier is None:
        return None
    from defenses.models.classifiers import load_classifier

    return load_classifier(classifier).to(place)
