"""Score networks from files: score_sde's DDPM++, guided-diffusion's, diffusers pipelines, those of `bench train`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defenses.models.checkpoints import bare_state, load_into, read
from defenses.models.flow_maps import VelocityMap
from defenses.models.info import ScoreInfo
from defenses.models.score_models import AtLevel, NetworkScore, ScoreModel
from defenses.models.shipped import trained_network
from defenses.models.sources import SOURCES, pipeline, pipeline_file
from defenses.models.weights import MissingWeights, load_checkpoint, own_file, strip_prefix, training_record

if TYPE_CHECKING:  # diffusers takes seconds to import
    from defenses.models.networks.unet import Layout

PATTERNS = (
    "diffusers:<repository or folder>", "file:ddpmpp<size>:<path>", "file:guided<size>:<path>",
    "file:blocks<size>:<path>", "file:velocity<size>:<path>",
)  # fmt: skip
PUBLIC = {
    "ddpmpp_cifar10": ("DDPM++", ("cifar10",), "Apache-2.0 (score_sde)"),
    "ddpmpp_cifar100": ("DDPM++", ("cifar100",), "none stated"),
    "ddpmpp_gtsrb": ("DDPM++", ("gtsrb",), "none stated"),
    "guided256": ("guided diffusion", ("imagenet", "imagenet_sample"), "MIT (guided-diffusion)"),
    "ddpm_cifar10_32": ("DDPM", ("cifar10",), "Apache-2.0"),
    "ddpm_mnist": ("small DDPM", ("mnist",), "MIT"),
    "ddpm_fashion": ("small DDPM", ("fashion_mnist",), "MIT"),
}
"""Name -> (title, data sets, licence) of the public score networks; `SOURCES` says where their files are."""


def public_score(name: str) -> ScoreInfo:
    """The record of a network of `PUBLIC`, or of a name of the form of one of `PATTERNS`."""
    scheme, _, rest = name.partition(":")
    if scheme == "file":
        return _file(name)
    if scheme == "diffusers":
        folder = Path(rest).expanduser()
        return _folder(name, folder) if folder.is_dir() else _hub(name, rest)
    if name == "ddpm_cifar10_32":
        return _hub(name, "google/ddpm-cifar10-32")
    source, (title, datasets, licence) = SOURCES[name], PUBLIC[name]
    load = LOADERS.get(name, _ddpmpp)
    return ScoreInfo(
        name=name, title=title, load=lambda: load(read(source)), find=source.find, datasets=datasets,
        source=source.where, licence=licence,
    )  # fmt: skip


def ddpmpp_score(
    state: dict[str, Tensor], size: int, expected: Layout | None = None, *, at_level: AtLevel = "index"
) -> NetworkScore:
    """DDPM++ of a score_sde state dict: continuous labels, no learned variance.

    Args:
        state: `all_modules.<i>...`.
        size: height and width of the images, which have three channels.
        expected: refuse another size of network.
        at_level: see `NetworkScore`.

    Raises:
        ValueError: another network's state, naming what is missing or left over.
    """
    from defenses.models.converters import load_ddpmpp

    return NetworkScore(load_ddpmpp(state, expected).requires_grad_(False), (3, size, size), at_level=at_level)


def guided_score(state: dict[str, Tensor], size: int, expected: Layout | None = None) -> NetworkScore:
    """guided-diffusion's network of its state dict (`input_blocks.<n>...`): labels cut to integers, learned variance.

    Arguments and errors as those of `ddpmpp_score`.
    """
    from defenses.models.converters import load_guided

    return NetworkScore(load_guided(state, expected).requires_grad_(False), (3, size, size), labels="index")


def velocity_map(state: dict[str, Tensor], size: int) -> VelocityMap:
    """A velocity network in the layout of `ddpmpp_score`, as FlowPure trains it: its label is the flow time itself."""
    from defenses.models.converters import load_ddpmpp

    return VelocityMap(load_ddpmpp(state).requires_grad_(False), (3, size, size))


def _ddpmpp(state: dict[str, Tensor]) -> NetworkScore:
    from defenses.models.networks.unet import DDPMPP_DEEP

    return ddpmpp_score(state, 32, DDPMPP_DEEP)


def _guided(state: dict[str, Tensor]) -> NetworkScore:
    from defenses.models.networks.unet import GUIDED_256

    return guided_score(state, 256, GUIDED_256)


def small_ddpm_score(state: dict[str, Tensor]) -> NetworkScore:
    """The DDPM of 28x28 grey pictures of its state dict (`network.<part>...`): labels cut to integers.

    Raises:
        ValueError: another network's state, naming what is missing or left over.
    """
    from defenses.models.networks.small_ddpm import SmallDDPM

    return NetworkScore(load_into(SmallDDPM(), state).eval().requires_grad_(False), (1, 28, 28), labels="index")


LOADERS: dict[str, Callable[[dict[str, Tensor]], NetworkScore]] = {
    "guided256": _guided,
    "ddpm_mnist": small_ddpm_score,
    "ddpm_fashion": small_ddpm_score,
}
"""What reads the file of a name of `PUBLIC`, where it is not DDPM++."""


def _file(name: str) -> ScoreInfo:
    """A state dict of the user's in the layout that the name tells, e.g. file:ddpmpp32:<path>."""
    match = re.fullmatch(r"file:(ddpmpp|guided|blocks|velocity)(\d+):(.+)", name)
    if match is None:
        raise LookupError(f"Expected one of {', '.join(PATTERNS)}, got {name!r}, e.g. file:ddpmpp32:mine.pt.")
    layout, size, path = match[1], int(match[2]), match[3]

    def load() -> ScoreModel:
        if layout == "blocks":
            return blocks_score(own_file(path), size)
        make: dict[str, Callable[..., ScoreModel]] = {
            "ddpmpp": ddpmpp_score, "guided": guided_score, "velocity": velocity_map,
        }  # fmt: skip
        return make[layout](strip_prefix(bare_state(load_checkpoint(own_file(path)))), size)

    return ScoreInfo(
        name=name, title=Path(path).stem, load=load, find=lambda: own_file(path), datasets=(), source=path,
        licence="the user's own",
    )  # fmt: skip


def blocks_score(path: Path, size: int) -> NetworkScore:
    """A network of `bench train score` at scale small, or of `bench train adbm`; the record beside it has its size.

    Args:
        path: the weight file, bf16; float32 in memory.
        size: height and width of the images.

    Raises:
        MissingWeights: there is no file or no record.
        ValueError: the network is for another size, or the file is altered.
    """
    record = training_record(path, "score", "adbm")
    if record["network"]["image_shape"][1:] != [size, size]:
        own = record["network"]["image_shape"][1]
        raise ValueError(
            f"Expected a network for {size} x {size} pictures, {path} is for {own} x {own}. Use file:blocks{own}:..."
        )
    return blocks_network(trained_network("block_unet", path, record), tuple(record["network"]["image_shape"]))


def blocks_network(network: nn.Module, image_shape: tuple[int, int, int]) -> NetworkScore:
    """A trained `BlockUNet` as a score network, in the memory format that it is fast in."""
    return NetworkScore(network.to(memory_format=torch.channels_last), image_shape)


def _folder(name: str, folder: Path) -> ScoreInfo:
    """An unconditional `UNet2DModel` in a folder of diffusers' layout."""
    return ScoreInfo(
        name=name, title=folder.name, load=lambda: _load(_local(folder)), find=lambda: _local(folder),
        datasets=(), source=str(folder), licence="the user's own",
    )  # fmt: skip


def _hub(name: str, repository: str) -> ScoreInfo:
    """An unconditional `UNet2DModel` of the Hugging Face hub, fetched before."""
    source = pipeline(repository)

    def load() -> NetworkScore:
        path = source.find()
        source.check(path)
        return _load(path)

    title, datasets, licence = PUBLIC.get(name, (repository, (), "as its model card says"))
    return ScoreInfo(
        name=name, title=title, load=load, find=source.find, datasets=datasets, source=source.where, licence=licence
    )


def _local(folder: Path) -> Path:
    path = pipeline_file(folder)
    if path is None:
        raise MissingWeights(f"Expected diffusion_pytorch_model.safetensors or .bin in {folder}, found none.")
    return path


def _load(path: Path) -> NetworkScore:
    from defenses.models.pipelines import load_pipeline  # diffusers takes seconds to import

    return load_pipeline(path)
