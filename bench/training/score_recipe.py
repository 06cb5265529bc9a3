"""The recipe behind `bench train score`: a noise-prediction network for pictures of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import ImageSet
from bench.training.long import Plan, claim, digest, fit_long, rows_of
from bench.training.pictures import HANDED, bytes_of, draw_purified, pixels_of
from bench.training.progress import Progress
from bench.training.score import diffuse, losses_by_time
from bench.training.score_networks import load_blocks, make_blocks, make_ddpmpp, save_blocks, save_ddpmpp
from defenses.models.scores import score_info
from defenses.models.weights import sha256_of
from defenses.registry import unknown_name

TIMES = (0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A network and how it is trained.

    Attributes:
        network: arguments of the network.
        plan: steps, batch size, rates.
        focus: nineteen of twenty training times are focus u^1.5, u uniform on (0, 1), the rest u; None for all uniform
            on (1e-5, 1].
        make: (image_shape, network, pictures (n, channels, height, width) in [-1, 1]) -> untrained network.
        save: (trained network, network, path) -> None; writes the file.
        file: how the file's name ends.
    """

    network: dict[str, Any]
    plan: Plan
    focus: float | None
    make: Callable[[tuple[int, int, int], dict[str, Any], Tensor], nn.Module]
    save: Callable[[nn.Module, dict[str, Any], Path], None]
    file: str


SMALL = Scale(
    network={"widths": [96, 192], "blocks": [2, 4, 2], "time_width": 256},
    plan=Plan(steps=4000, batch_size=128),
    focus=0.25,
    make=make_blocks,
    save=save_blocks,
    file="_score.safetensors",
)
# DDPM++ continuous, deep (Song et al., ICLR 2021, and the authors' settings): Adam, 2e-4 after 5,000 steps, batches of
# 128, average 0.9999. They store a state every 50,000 of at most 950,000 steps: checkpoint_8 has seen 400,000. Their
# rate stays; here it falls to zero.
FULL = Scale(
    network={"channels": (128, 256, 256, 256), "blocks": 8, "attention": (False, True, False, False)},
    plan=Plan(
        steps=400_000, batch_size=128, learning_rate=None, other_rate=2e-4, weight_decay=0.0, average=0.9999,
        warm_up=5000,
    ),
    focus=None,
    make=make_ddpmpp,
    save=save_ddpmpp,
    file="_score_sde.pt",
)  # fmt: skip
SCALES = {"small": SMALL, "full": FULL}


def fit_noise(
    network: nn.Module, images: Tensor, setting: Scale, *, seed: int, what: str, checkpoint: Path | None,
    progress: Progress, mirror: bool = True, compiled: bool = False,
) -> tuple[nn.Module, float]:  # fmt: skip
    """Train a network to predict the noise, by its mean squared error; returns what `fit_long` does.

    Args:
        network: (x_t, label) -> noise.
        images: uint8 (N, channels, height, width), on the network's device.
        setting: the plan and the training times.
        seed: of every random draw.
        what: is trained, for `progress` and the checkpoint.
        checkpoint: file to continue from; None for none.
        progress: see `Progress`.
        mirror: whether half of the pictures are mirrored.
        compiled: whether to torch.compile the network.
    """
    plan = setting.plan

    def loss(net: nn.Module, step: int, generator: torch.Generator) -> Tensor:
        x = pixels_of(images, rows_of(step, plan.batch_size, len(images), seed))
        draw = torch.rand(3, len(x), device=x.device, generator=generator)
        if mirror:
            x = torch.where((draw[0] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
        t = _times(draw[1], draw[2], setting.focus)
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        return (net(diffuse(x, t, noise), 999 * t).float() - noise).square().mean()

    return fit_long(
        network, loss, plan=plan, seed=seed, what=what, pictures=digest(images), plain=("time", "input", "output"),
        checkpoint=checkpoint, compiled=compiled, progress=progress,
    )  # fmt: skip


def _times(chosen: Tensor, u: Tensor, focus: float | None) -> Tensor:
    if focus is None:
        return 1 - (1 - 1e-5) * u
    return torch.where(chosen < 0.95, focus * u**1.5, u)


def train_score(
    train: ImageSet, test: ImageSet, output: Path, *, seed: int, effort: float, progress: Progress,
    scale: str = "small", device: str | None = None, score: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a score network on the pictures of a data set; returns the record.

    Args:
        train: pictures to train on.
        test: pictures to measure on.
        output: folder for the weights and the checkpoint.
        seed: of every random draw.
        effort: scales the number of steps.
        progress: see `Progress`.
        scale: of `SCALES`.
        device: "cpu", "cuda" or "cuda:<number>"; the CPU for "small" and a GPU for "full" where None.
        score: network to train further, at half of the learning rates, see `load_blocks`; None for a fresh one.

    Raises:
        LookupError: another scale, or an unknown score network.
        MissingWeights: the file of the score network is not on this machine.
        ValueError: a device that is not there, pictures that the network cannot take, a score network that scale small
            cannot have made, or an `output` that holds another network.
    """
    setting, place = _scale(scale, effort), _device(scale, device)
    path = output / f"{train.name}{setting.file}"
    before: dict[str, str] = {}
    if score is not None:
        network, setting, before = _further(score, setting, train.image_shape)
    checkpoint = claim(output, path.name)
    images = bytes_of(train)
    if score is None:
        torch.manual_seed(seed)
        some = pixels_of(images, torch.arange(min(len(images), 10_000)))
        network = setting.make(train.image_shape, setting.network, some)
    fitted, seconds = fit_noise(
        network.to(place), images.to(place), setting, seed=seed, checkpoint=checkpoint, progress=progress,
        what=" ".join((f"{train.name}_score", *(fact[:12] for fact in before.values()))),
        mirror=train.name not in HANDED, compiled=place.type == "cuda",
    )  # fmt: skip
    setting.save(fitted, setting.network, path)

    def predict(x: Tensor, label: Tensor) -> Tensor:
        return fitted(x.to(place), label.to(place)).cpu()

    first = test.images(range(min(1000, len(test))))
    draw_purified(predict, first[:8], output / "purified.png", times=(0.05, 0.1, 0.25))
    seen = (pixels_of(images, torch.arange(min(1000, len(images)))) + 1) / 2
    return {
        "dataset": {"name": train.name, "train_images": len(train), "note": train.note},
        "scale": scale, **before,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "files": {
            path.name: {
                "sha256": sha256_of(path), "bytes": path.stat().st_size,
                "network": {"image_shape": list(train.image_shape), **setting.network},
                "parameters": sum(p.numel() for p in fitted.parameters()), "steps": setting.plan.steps,
                "batch_size": setting.plan.batch_size, "seconds": round(seconds, 1),
                "pictures_per_second": round(setting.plan.steps * setting.plan.batch_size / seconds, 1),
                "loss_train": losses_by_time(predict, seen, TIMES), "loss_test": losses_by_time(predict, first, TIMES),
            }
        },
    }  # fmt: skip


def _further(score: str, setting: Scale, image_shape: tuple[int, int, int]) -> tuple[nn.Module, Scale, dict[str, str]]:
    """A trained network to go on with, how, and what the record says of it."""
    if setting.make is not make_blocks:
        raise ValueError(
            "Expected --scale small with --score, got full: networks of scale full cannot be trained further. Leave "
            "--scale out for a network of scale small, or --score for a fresh one."
        )
    network, arguments = load_blocks(score, image_shape)
    facts = {"score": score, "score_sha256": score_info(score).weights_sha256() or ""}
    started = deepcopy(network).requires_grad_(True)  # the loaded one is shared
    return started, replace(setting, network=arguments, plan=setting.plan.slowed(0.5)), facts


def _scale(scale: str, effort: float) -> Scale:
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    setting = SCALES[scale]
    return replace(setting, plan=setting.plan.scaled(effort))


def _device(scale: str, name: str | None) -> torch.device:
    chosen = name or ("cuda" if scale == "full" else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", chosen):
        raise ValueError(f"Expected --device cpu, cuda or cuda:<number>, got {chosen!r}.")
    found = torch.device(chosen)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"Expected the GPU {chosen} to train at scale {scale}, torch finds {torch.cuda.device_count()} here. Run "
            "it on a machine with one, insist with --device cpu, or leave --device and --scale out: small needs none."
        )
    return found
