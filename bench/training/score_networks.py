"""The networks that `bench train score` makes: untrained, written to a file that a score name reads, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defenses.models.networks.block_unet import BlockUNet

SILENT = ("conv2", "to_out.0", "unet.conv_out")  # of DDPM++: what ends a block, or the network


def make_blocks(image_shape: tuple[int, int, int], arguments: dict[str, Any], x: Tensor) -> nn.Module:
    """An untrained `BlockUNet`, scaled to some pictures.

    Args:
        image_shape: (channels, height, width).
        arguments: of `BlockUNet`.
        x: pictures (n, channels, height, width) in [-1, 1].
    """
    network = BlockUNet(image_shape=image_shape, **arguments)
    network.fit_scale(x)
    return network


def save_blocks(network: nn.Module, arguments: dict[str, Any], path: Path) -> None:
    """Write bf16 safetensors, which `file:blocks<size>:<path>` reads; the network then holds what the file holds.

    Args:
        network: a trained `BlockUNet`.
        arguments: of `BlockUNet`.
        path: of the file.
    """
    from safetensors.torch import save_file

    state = {name: value.bfloat16().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, path)
    network.load_state_dict(state)


def load_blocks(score: str, image_shape: tuple[int, ...]) -> tuple[BlockUNet, dict[str, Any]]:
    """The `BlockUNet` behind a score name, and its arguments, by the record beside its file.

    Args:
        score: name of a score network that `bench train score` made at scale small.
        image_shape: (channels, height, width) of the pictures that it is to be trained on.

    Raises:
        LookupError: an unknown name.
        MissingWeights: its file is not on this machine.
        ValueError: a score network of another kind or for other pictures.
    """
    from defenses.models.score_models import NetworkScore
    from defenses.models.scores import load_score, score_info

    model, path = load_score(score), score_info(score).find()
    if not (isinstance(model, NetworkScore) and isinstance(model.network, BlockUNet)) or path is None:
        raise ValueError(
            f"Expected a score network that `bench train score` made at scale small, {score} is another. Use "
            "cifar10_small, or train one and name it file:blocks<size>:<path>."
        )
    if model.image_shape != image_shape:
        raise ValueError(
            f"Expected a score network for pictures of {image_shape}, {score} is for {model.image_shape}. Name one "
            "that was trained on such pictures, or another --dataset."
        )
    record = json.loads(Path(path).with_name("record.json").read_text(encoding="utf-8"))
    return model.network, record["files"][Path(path).name]["network"]


def make_ddpmpp(image_shape: tuple[int, int, int], arguments: dict[str, Any], x: Tensor) -> nn.Module:
    """An untrained DDPM++, with the first weights of its authors' code, in channels_last.

    Args:
        image_shape: (channels, height, width).
        arguments: of its `Layout`.
        x: not used.

    Raises:
        ValueError: pictures that it cannot take.
    """
    from defenses.models.networks.unet import Layout, ddpmpp_unet

    channels, height, width = image_shape
    multiple = 2 ** (len(arguments["channels"]) - 1)
    if channels != 3 or height % multiple or width % multiple:
        raise ValueError(
            f"Expected colour pictures with sides that {multiple} divides, for DDPM++, got {channels} x {height} x "
            f"{width}. Use --scale small."
        )
    network = ddpmpp_unet(Layout(**arguments))
    _first_weights(network)
    return network.to(memory_format=torch.channels_last)


def save_ddpmpp(network: nn.Module, arguments: dict[str, Any], path: Path) -> None:
    """Write score_sde's state dict in float32, which `ddpmpp_<dataset>` and `file:ddpmpp<size>:<path>` read.

    Args:
        network: a trained DDPM++.
        arguments: of its `Layout`.
        path: of the file, .pt.
    """
    from defenses.models.converters import ddpmpp_state
    from defenses.models.networks.unet import Layout

    torch.save(ddpmpp_state(network, Layout(**arguments)), path)  # type: ignore[arg-type]


def _first_weights(network: nn.Module) -> None:
    """Variance 1 / fan_avg and no bias (Glorot & Bengio, AISTATS 2010); what is added at the end of a block starts at
    zero, queries, keys and values at a tenth of that variance (Song et al., ICLR 2021, authors' code)."""
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            share = 0.0 if name.endswith(SILENT) else 0.1 if name.endswith(("to_q", "to_k", "to_v")) else 1.0
            nn.init.xavier_uniform_(layer.weight, gain=share**0.5)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
