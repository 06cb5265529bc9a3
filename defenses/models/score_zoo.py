"""Score networks from files: score_sde's DDPM++, guided-diffusion's, diffusers pipelines, those of `bench train`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.models.checkpoints import bare_state, read
from defenses.models.score_models import AtLevel, NetworkScore, ScoreInfo
from defenses.models.sources import SOURCES, pipeline, pipeline_file
from defenses.models.weights import MissingWeights, load_checkpoint, own_file, training_record

if TYPE_CHECKING:
    from torch import Tensor

    from defenses.models.networks.unet import Layout

LICENCES = {"ddpmpp_cifar10": "Apache-2.0 (score_sde)", "guided256": "MIT (guided-diffusion)"}
SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000,
            "prediction_type": "epsilon"}  # fmt: skip

PATTERNS = (
    "diffusers:<repository or folder>", "file:ddpmpp<size>:<path>", "file:guided<size>:<path>",
    "file:blocks<size>:<path>",
)  # fmt: skip


def public_score(name: str) -> ScoreInfo:
    """The record of a public score network, `diffusers:<repository or folder>` or `file:<layout><size>:<path>`."""
    scheme, _, rest = name.partition(":")
    if scheme == "file":
        return _file(name)
    if scheme == "diffusers":
        return _pipeline(rest, ())
    if name == "ddpm_cifar10_32":
        return _pipeline("google/ddpm-cifar10-32", ("cifar10",))
    source, dataset = SOURCES[name], name.removeprefix("ddpmpp_")
    load = _guided if name == "guided256" else _ddpmpp
    return ScoreInfo(
        load=lambda: load(read(source)),
        find=source.find,
        datasets=("imagenet", "imagenet_sample") if name == "guided256" else (dataset,),
        source=source.where,
        licence=LICENCES.get(name, "none stated"),
    )


def ddpmpp_score(
    state: dict[str, Tensor], size: int, expected: Layout | None = None, *, at_level: AtLevel = "index"
) -> NetworkScore:
    """DDPM++ (score_sde state dict) on 3 x size x size images: continuous labels (at_level: see `NetworkScore`), noise
    only."""
    from defenses.models.converters import load_ddpmpp

    return NetworkScore(load_ddpmpp(state, expected).requires_grad_(False), (3, size, size), at_level=at_level)


def guided_score(state: dict[str, Tensor], size: int, expected: Layout | None = None) -> NetworkScore:
    """guided-diffusion's network on 3 x size x size images: labels cut to integers, learned variance."""
    from defenses.models.converters import load_guided

    return NetworkScore(load_guided(state, expected).requires_grad_(False), (3, size, size), labels="index")


def _ddpmpp(state: dict[str, Tensor]) -> NetworkScore:
    from defenses.models.networks.unet import DDPMPP_DEEP

    return ddpmpp_score(state, 32, DDPMPP_DEEP)


def _guided(state: dict[str, Tensor]) -> NetworkScore:
    from defenses.models.networks.unet import GUIDED_256

    return guided_score(state, 256, GUIDED_256)


def _file(name: str) -> ScoreInfo:
    """file:ddpmpp32:<path>, file:guided256:<path>, file:blocks32:<path>: a state dict of the user's in that layout."""
    match = re.fullmatch(r"file:(ddpmpp|guided|blocks)(\d+):(.+)", name)
    if match is None:
        raise LookupError(f"Expected one of {', '.join(PATTERNS)}, got {name!r}, e.g. file:ddpmpp32:mine.pt.")
    layout, size, path = match[1], int(match[2]), match[3]

    def load() -> NetworkScore:
        if layout == "blocks":
            return blocks_score(own_file(path), size)
        make = {"ddpmpp": ddpmpp_score, "guided": guided_score}[layout]
        return make(bare_state(load_checkpoint(own_file(path))), size)

    return ScoreInfo(
        load=load, find=lambda: own_file(path), datasets=(), source=path, licence="the user's own"
    )  # fmt: skip


def blocks_score(path: Path, size: int) -> NetworkScore:
    """A network of `bench train score` (scale small) for 3 x size x size images, bf16 in the file, float32 in memory.

    The record beside the file says how large it is. Raises MissingWeights without one, ValueError for another size or
    an altered file.
    """
    import torch

    from defenses.models.networks.block_unet import BlockUNet

    record = training_record(path, "score")
    if record["network"]["image_shape"][1:] != [size, size]:
        own = record["network"]["image_shape"][1]
        raise ValueError(
            f"Expected a network for {size} x {size} pictures, {path} is for {own} x {own}. Use file:blocks{own}:..."
        )
    network = BlockUNet(**record["network"]).to(memory_format=torch.channels_last)
    network.load_state_dict(load_checkpoint(path, record["sha256"]))
    return NetworkScore(network.eval().requires_grad_(False), tuple(record["network"]["image_shape"]))


def _pipeline(name: str, datasets: tuple[str, ...]) -> ScoreInfo:
    """An unconditional `UNet2DModel`: a folder of diffusers' layout, or a fetched repository of the hub."""
    local = Path(name).expanduser()
    if local.is_dir():
        return ScoreInfo(
            load=lambda: _load_pipeline(_local(local)), find=lambda: _local(local), datasets=datasets,
            source=str(local), licence="the user's own",
        )  # fmt: skip
    source = pipeline(name)

    def load() -> NetworkScore:
        path = source.find()
        source.check(path)
        return _load_pipeline(path)

    licence = "Apache-2.0" if datasets else "as its model card says"
    return ScoreInfo(load=load, find=source.find, datasets=datasets, source=source.where, licence=licence)


def _local(folder: Path) -> Path:
    path = pipeline_file(folder)
    if path is None:
        raise MissingWeights(f"Expected diffusion_pytorch_model.safetensors or .bin in {folder}, found none.")
    return path


def _load_pipeline(path: Path) -> NetworkScore:
    """The network of a weight file and the config.json beside it; a scheduler's file must state the linear schedule."""
    from diffusers import UNet2DModel

    from defenses.models.networks.unet import EpsilonUNet

    folder = path.parent
    for file in (folder / "scheduler_config.json", folder.parent / "scheduler" / "scheduler_config.json"):
        if file.is_file():
            _check_schedule(json.loads(file.read_text()), file)
    unet = UNet2DModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=path.suffix == ".safetensors", low_cpu_mem_usage=False
    )
    config = unet.config
    if (classes := config.num_class_embeds) is not None:
        raise ValueError(f"Expected an unconditional network in {folder}, found one of {classes} classes.")
    size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
    network = EpsilonUNet(unet).eval().requires_grad_(False)
    return NetworkScore(network, (config.in_channels, *size), labels="index")


def _check_schedule(found: dict[str, Any], file: Path) -> None:
    for name, wanted in SCHEDULE.items():
        if found.get(name, wanted) != wanted:
            raise ValueError(
                f"Expected {name} {wanted} in {file}, found {found[name]}: the VP schedule here is the linear one of "
                "1000 levels, and networks predict the noise. Another pipeline is needed."
            )
