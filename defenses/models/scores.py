"""Score networks by name: those that ship, the public ones, and files of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from defenses.models.conditional import digits_conditional
from defenses.models.energy import digits_energy
from defenses.models.score_models import DataScore, NetworkScore, ScoreInfo, ScoreModel
from defenses.models.score_zoo import PATTERNS, blocks_score, public_score
from defenses.models.weights import asset_path, asset_record, load_checkpoint
from defenses.registry import unknown_name


def _digits() -> ScoreInfo:
    """The score network that `bench train digits` made."""
    file = "digits_score.safetensors"
    record = asset_record("digits")["files"][file]

    def find() -> Path:
        return asset_path(f"digits/{file}")

    def load() -> ScoreModel:
        from defenses.models.networks.score_mlp import ScoreMLP

        network = ScoreMLP(**record["network"])
        network.load_state_dict(load_checkpoint(find(), record["sha256"]))
        return NetworkScore(network.eval().requires_grad_(False), (1, 8, 8))

    return ScoreInfo(
        load=load, find=find, datasets=("digits",), source="bench train digits (this package)", licence="Apache-2.0"
    )


def _cifar10_small() -> ScoreInfo:
    """The score network that `bench train score --dataset cifar10` made on two CPU cores."""

    def find() -> Path:
        return asset_path("cifar10/score/cifar10_score.safetensors")

    def load() -> ScoreModel:
        return blocks_score(find(), 32)

    return ScoreInfo(
        load=load, find=find, datasets=("cifar10",), source="bench train score --dataset cifar10 (this package)",
        licence="Apache-2.0",
    )  # fmt: skip


PUBLIC = ("ddpmpp_cifar10", "ddpmpp_cifar100", "ddpmpp_gtsrb", "guided256", "ddpm_cifar10_32")
score_models: dict[str, Callable[[], ScoreInfo]] = {
    "digits_score": _digits,
    "digits_conditional": digits_conditional,
    "digits_energy": digits_energy,
    "cifar10_small": _cifar10_small,
    **{name: partial(public_score, name) for name in PUBLIC},
}


def load_score(name: str) -> ScoreModel | DataScore:
    """A score network by name, in eval mode and without parameter gradients; see `score_info`."""
    return score_info(name).load()


def score_info(name: str) -> ScoreInfo:
    """What is known of a score network: a registered one, a diffusers pipeline, or a state dict of a known layout
    (`PATTERNS`). An unknown name raises LookupError with the nearest match and the list."""
    if name.startswith(("diffusers:", "file:")):
        return public_score(name)
    if name not in score_models:
        raise unknown_name("score network", name, [*score_models, *PATTERNS])
    return score_models[name]()
