"""Score networks by name: those that ship, the public ones, and files of the user's.

To add one, `register_score` its record. `diffusers:<repository or folder>` reaches an unconditional diffusers pipeline,
`file:<layout><size>:<path>` a state dict of the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

from defenses.models.conditional import ConditionalScore
from defenses.models.energy import EnergyScore
from defenses.models.info import ScoreInfo
from defenses.models.made import OWN, made_score
from defenses.models.score_models import DataScore, NetworkScore, ScoreModel
from defenses.models.score_zoo import PATTERNS, PUBLIC, blocks_network, public_score
from defenses.models.shipped import Shipped
from defenses.plugins import adopt_record, welcome
from defenses.registry import PYTHON, Registry, check_name
from defenses.user_file import load_function

F = TypeVar("F", bound=Callable[..., Any])
SCORES: Registry[ScoreInfo] = Registry("score network")


@overload
def register_score(info: ScoreInfo, /) -> ScoreInfo: ...


@overload
def register_score(
    info: str, /, *, datasets: tuple[str, ...] = (), title: str = "", source: str = "", licence: str = OWN
) -> Callable[[F], F]: ...


def register_score(
    info: ScoreInfo | str,
    /,
    *,
    datasets: tuple[str, ...] = (),
    title: str = "",
    source: str = "",
    licence: str = OWN,
) -> Any:
    """Make a score network known: by its record, or as @register_score("my_score") above a function that makes it.

    The function returns a `ScoreModel`, such as `NetworkScore(network, image_shape)`, or a `DataScore`. It is called
    when the network is first used, under a fixed seed.

    Args:
        info: the record, or the name.
        datasets: of a function: names of the data sets that it was trained on.
        title: what tables call it.
        source: where the weights come from.
        licence: of the weights.

    Raises:
        ValueError: the name is taken.
    """
    if isinstance(info, ScoreInfo):
        return SCORES.register(info)

    def register(function: F) -> F:
        name, facts = check_name("score network", info), {"title": title, "source": source, "licence": licence}
        SCORES.register(made_score(name, function, datasets=datasets, **facts))
        return function

    return register


def score_info(name: str) -> ScoreInfo:
    """The record of a score network; an unknown name raises LookupError with the nearest match and the list."""
    return SCORES[name]


def load_score(name: str) -> ScoreModel | DataScore:
    """The score network `name`, on the CPU, in eval mode and without parameter gradients.

    Args:
        name: a registered name, "diffusers:<repository or folder>", "file:<layout><size>:<path>" or
            "<file>.py:<function>".

    Raises:
        LookupError: an unknown name.
        MissingWeights: the file is not on this machine.
        ValueError: an altered file, or one of another layout.
    """
    return score_info(name).load()


def _shipped(
    name: str, title: str, dataset: str, shipped: Shipped, wrap: Callable[[nn.Module], ScoreModel | DataScore]
) -> ScoreInfo:
    return ScoreInfo(
        name=name, title=title, datasets=(dataset,), load=lambda: wrap(shipped.network()), **shipped.facts()
    )


DIGITS = (1, 8, 8)
for _info in (
    _shipped(
        "digits_score", "digits score network", "digits",
        Shipped(file="digits/digits_score.safetensors", architecture="score_mlp", recipe="digits"),
        lambda network: NetworkScore(network, DIGITS),
    ),
    _shipped(
        "digits_conditional", "class-conditional digits score network", "digits",
        Shipped(
            file="digits_conditional/digits_conditional.safetensors", architecture="score_mlp",
            recipe="digits_conditional",
        ),
        lambda network: ConditionalScore(network, DIGITS, classes=10),
    ),
    _shipped(
        "digits_energy", "digits energy model", "digits",
        Shipped(file="digits_energy/digits_energy.safetensors", architecture="energy", recipe="digits_energy"),
        lambda network: EnergyScore(network, DIGITS),
    ),
    _shipped(
        "digits_perturbation", "digits perturbation network", "digits",
        Shipped(
            file="digits_perturbation/digits_perturbation.safetensors", architecture="score_mlp",
            recipe="digits_perturbation",
        ),
        lambda network: NetworkScore(network, DIGITS),
    ),
    _shipped(
        "cifar10_small", "small U-Net", "cifar10",
        Shipped(
            file="cifar10/score/cifar10_score.safetensors", architecture="block_unet",
            recipe="score --dataset cifar10",
        ),
        lambda network: blocks_network(network, (3, 32, 32)),
    ),
    *map(public_score, PUBLIC),
):  # fmt: skip
    register_score(_info)
for _prefix in ("diffusers:", "file:"):
    SCORES.resolve(_prefix, public_score, *(pattern for pattern in PATTERNS if pattern.startswith(_prefix)))
SCORES.resolve(PYTHON, lambda name: made_score(name, load_function(name)), "<file>.py:<function>")
welcome(SCORES, "scores", adopt_record(SCORES, ScoreInfo, register_score))
