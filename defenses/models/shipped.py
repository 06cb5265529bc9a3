"""Networks that `bench train` made: those that the package brings, and files of the user's with their record."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.models.weights import asset_path, asset_record, load_checkpoint

if TYPE_CHECKING:  # torch takes a second to import; listing names must not pay for it
    from torch import nn

ARCHITECTURES = {
    "small_cnn": "SmallCNN",
    "block_resnet": "block_resnet",
    "cifar_resnet": "cifar_resnet",
    "score_mlp": "ScoreMLP",
    "block_unet": "BlockUNet",
    "energy": "EnergyMLP",
}
"""Module of `defenses.models.networks` -> what makes the network in it."""


def trained_network(architecture: str, path: Path, record: Mapping[str, Any]) -> nn.Module:
    """The network that a training record describes, with the weights of its file, in eval mode and frozen.

    Args:
        architecture: one of `ARCHITECTURES`.
        path: the weight file.
        record: its entry in record.json: `network`, the architecture's arguments, and `sha256`.

    Raises:
        MissingWeights: there is no such file.
        ValueError: it is truncated or altered.
    """
    module = importlib.import_module(f"defenses.models.networks.{architecture}")
    network: nn.Module = getattr(module, ARCHITECTURES[architecture])(**record["network"])
    network.load_state_dict(load_checkpoint(path, record["sha256"]))
    return network.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A network that ships with the package.

    Attributes:
        file: below defenses/models/assets, in a folder with the record.json of its training.
        architecture: one of `ARCHITECTURES`.
        recipe: what `bench train` is followed by to make it.
    """

    file: str
    architecture: str
    recipe: str

    @property
    def record(self) -> dict[str, Any]:
        """What its training recorded: sha256, the architecture's arguments, accuracies."""
        folder, _, name = self.file.rpartition("/")
        return asset_record(folder)["files"][name]

    def find(self) -> Path:
        """The weight file."""
        return asset_path(self.file)

    def network(self) -> nn.Module:
        """The trained network; see `trained_network`."""
        return trained_network(self.architecture, self.find(), self.record)

    def facts(self) -> dict[str, Any]:
        """The fields of `NetworkInfo` that follow from the file and its record."""
        return {
            "find": self.find,
            "source": f"bench train {self.recipe} (this package)",
            "licence": "Apache-2.0",
            "sha256": self.record["sha256"],
        }
